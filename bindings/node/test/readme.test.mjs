// The first lines that people read work as they stand, from an empty folder.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

const readme = process.env.TRAFLUX_README ?? fileURLToPath(new URL('../../../README.md', import.meta.url));

test("the README's lines print a decision", () => {
  const section = readFileSync(readme, 'utf8').split('## Node\n')[1];
  const code = section.match(/```js\n([^]*?)```/)[1];
  assert.ok(code.trim().split('\n').length <= 5, code);
  // Beside this file the package is found as it is in a project.
  const script = fileURLToPath(new URL('readme-lines.mjs', import.meta.url));
  writeFileSync(script, code);
  assert.match(execFileSync(process.execPath, [script], { encoding: 'utf8' }), /^forward (east|west)\n$/);
});
