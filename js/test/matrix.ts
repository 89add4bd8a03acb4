// Runs the tests on each Node that is supported: its binaries come as npm packages.
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { js } from './world.js';

const versions = process.argv.length > 2 ? process.argv.slice(2) : ['20', '22', '24'];
const tests = readdirSync(join(js, 'build/test')).filter((name) => name.endsWith('.test.js')).map((name) => join('build/test', name));
const failed: string[] = [];
for (const version of versions) {
  const prefix = join(js, 'build', `node-${version}`);
  execFileSync('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', prefix, `node-${process.platform}-${process.arch}@${version}`], { stdio: ['ignore', 'ignore', 'inherit'] });
  const bin = join(prefix, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin');
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env['PATH']}` };
  const began = Date.now();
  const { status, stdout } = spawnSync(join(bin, 'node'), ['--test', '--test-concurrency=2', ...tests], { cwd: js, env, encoding: 'utf8' });
  const name = execFileSync(join(bin, 'node'), ['--version'], { encoding: 'utf8' }).trim();
  const figures = /# tests (\d+)|ℹ tests (\d+)/.exec(stdout);
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'} Node ${name}: ${figures?.[1] ?? figures?.[2]} tests in ${((Date.now() - began) / 1000).toFixed(0)} s`);
  if (status !== 0) failed.push(stdout);
}
for (const output of failed) console.log(output);
process.exitCode = failed.length === 0 ? 0 : 1;
