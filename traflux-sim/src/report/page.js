(() => {
  const tip = document.getElementById("tip");
  const clock = (s) => `${Math.floor(s / 3600)}:${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
  for (const figure of document.querySelectorAll("figure.chart")) {
    const source = figure.querySelector('script[type="application/json"]');
    if (!source) continue;
    const data = JSON.parse(source.textContent);
    const svg = figure.querySelector("svg");
    const cursor = svg.querySelector(".cursor");
    const hidden = new Set();
    for (const button of figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const ix = Number(button.dataset.ix);
        if (hidden.has(ix)) hidden.delete(ix); else hidden.add(ix);
        button.classList.toggle("muted", hidden.has(ix));
        for (const shape of svg.querySelectorAll(`[data-ix="${ix}"]`)) {
          shape.classList.toggle("off", hidden.has(ix));
        }
      });
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * data.width;
      const time = ((x - data.left) / (data.width - data.left - data.right)) * data.end;
      if (time < 0 || time > data.end || data.times.length === 0) return leave();
      let nearest = 0;
      data.times.forEach((t, k) => {
        if (Math.abs(t - time) < Math.abs(data.times[nearest] - time)) nearest = k;
      });
      const at = data.left + (data.times[nearest] / data.end) * (data.width - data.left - data.right);
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      cursor.style.opacity = 0.45;
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = clock(data.times[nearest]);
      tip.append(head);
      const rows = data.series
        .map((series, ix) => ({ series, ix, value: series.values[nearest] }))
        .filter((row) => !hidden.has(row.ix) && row.value !== undefined);
      if (data.stacked) rows.reverse();
      else rows.sort((a, b) => b.value - a.value);
      for (const row of rows) {
        const line = document.createElement("div");
        const dot = document.createElement("i");
        dot.style.background = row.series.color;
        const value = document.createElement("span");
        value.textContent = `${row.value.toFixed(data.decimals)} ${data.unit}`;
        line.append(dot, row.series.name, value);
        tip.append(line);
      }
      tip.hidden = false;
      const right = event.clientX + 18 + tip.offsetWidth > window.innerWidth;
      tip.style.left = `${right ? event.clientX - 18 - tip.offsetWidth : event.clientX + 18}px`;
      tip.style.top = `${Math.max(8, Math.min(event.clientY - 20, window.innerHeight - tip.offsetHeight - 8))}px`;
    });
    const leave = () => {
      tip.hidden = true;
      cursor.style.opacity = 0;
    };
    svg.addEventListener("pointerleave", leave);
  }
})();
