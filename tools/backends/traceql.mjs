// Which of these queries are no TraceQL, by the grammar that Grafana itself ships?
//
//   node tools/backends/traceql.mjs build/backends/node_modules < queries.json
//
// In: a JSON list of texts. Out: for each that is none, `{"query": ..., "at": offset}`, the
// offset of its first mistake in UTF-16 units. Lezer parses on after a mistake: it puts a node
// of its type "error" where something is missing or does not belong.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const { parser } = createRequire(resolve(process.argv[2]) + "/")("@grafana/lezer-traceql");

const mistakes = [];
for (const query of JSON.parse(readFileSync(0, "utf8"))) {
  let at = null;
  parser.parse(query).iterate({
    enter(node) {
      if (node.type.isError) at ??= node.from;
    },
  });
  if (at !== null) mistakes.push({ query, at });
}
console.log(JSON.stringify(mistakes));
