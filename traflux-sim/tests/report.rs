//! The report as text and as a page.

#![allow(clippy::unwrap_used)]

use traflux_sim::{ArmController, ArmResult, Baseline, CriticalRow, Report, Scenario, run_arm};

fn arms(scenario: &Scenario) -> Vec<ArmResult> {
    Baseline::all()
        .into_iter()
        .map(|mut arm| ArmResult {
            name: arm.name().to_owned(),
            outcomes: (1..=2).map(|seed| run_arm(scenario, seed, &mut arm, &mut |_| {}).unwrap()).collect(),
            critical: (1..20)
                .map(|k| CriticalRow {
                    at_s: f64::from(k) * 5.0,
                    group: "aws-us-east".into(),
                    reason: "p95 <250 ms> & rising".into(),
                })
                .collect(),
        })
        .collect()
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::built_in("flash").unwrap();
    scenario.duration_s = 240.0;
    scenario.processes[3].start_s = 60.0;
    scenario.processes[3].end_s = Some(180.0);
    scenario
}

fn report<'a>(scenario: &'a Scenario, arms: &'a [ArmResult], notes: &'a [String]) -> Report<'a> {
    Report { scenario, arms, focus: "P2C Peak-EWMA", baseline: "static capacity weights", notes }
}

#[test]
fn the_table_has_every_arm_every_window_and_paired_intervals() {
    let scenario = scenario();
    let arms = arms(&scenario);
    let text = report(&scenario, &arms, &[]).table();
    for arm in &arms {
        // All numbers, means by window, and differences to all but the arm in focus, which is in their heading.
        assert_eq!(text.lines().filter(|l| l.starts_with(&arm.name)).count(), 3, "{text}");
    }
    for word in ["flash-crowd", "quiet", "95 % interval", "SLO miss %", "churn/min", "$/1M", "2 seeds"] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    let mean = arms[0].mean_of(|o| o.mean.as_millis());
    assert!(text.contains(&format!("{mean:.1}")), "{text}");
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_escapes_names() {
    let mut scenario = scenario();
    let arms = arms(&scenario);
    scenario.name = "<script>alert(1)</script>".into();
    scenario.endpoints[0].name = "a</script>\"b".into();
    let page = report(&scenario, &arms, &["seeds & <notes>".to_owned()]).html();
    for forbidden in
        ["http:", "https:", "src=", "href=", "@import", "url(", "alert(1)</script>", "a</script>"]
    {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for expected in
        ["Where traffic went", "What was critical", "p95 &lt;250 ms&gt; &amp; rising", "&lt;notes&gt;"]
    {
        assert!(page.contains(expected), "{expected}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let data: Vec<serde_json::Value> = page
        .split("<script type=\"application/json\">")
        .skip(1)
        .map(|rest| serde_json::from_str(rest.split("</script>").next().unwrap()).unwrap())
        .collect();
    assert_eq!(data.len(), 5, "weights, latency, misses, cost, reward");
    assert_eq!(data[0]["series"].as_array().unwrap().len(), scenario.endpoints.len());
    assert_eq!(data[1]["series"].as_array().unwrap().len(), arms.len());
    assert_eq!(data[1]["times"].as_array().unwrap().len(), 4);
}

#[test]
fn equal_outcomes_give_equal_reports() {
    let scenario = scenario();
    let (first, second) = (arms(&scenario), arms(&scenario));
    assert_eq!(report(&scenario, &first, &[]).html(), report(&scenario, &second, &[]).html());
    assert_eq!(report(&scenario, &first, &[]).table(), report(&scenario, &second, &[]).table());
}

#[test]
fn a_report_without_arms_is_empty_but_valid() {
    let scenario = scenario();
    let empty = report(&scenario, &[], &[]);
    assert!(empty.table().contains("flash"));
    assert!(empty.html().ends_with("</html>"));
}
