// lint.mjs RULESET DOCUMENT: what `redocly lint --config RULESET DOCUMENT` does, without the rest of that tool.

import { formatProblems, getTotals, lint, loadConfig } from "@redocly/openapi-core";

const [configPath, ref] = process.argv.slice(2);
const problems = await lint({ ref, config: await loadConfig({ configPath }) });
const totals = getTotals(problems);
formatProblems(problems, { format: "codeframe", totals, version: "" });
process.exitCode = totals.errors + totals.warnings > 0 ? 1 : 0;
