// What happened to a request, in words.

import { make } from "./dom.js";
import { model } from "./model.js";
import { counted, lost, seconds } from "./words.js";

const { because } = model.raw;

export const code = (text) => make("code", null, make("bdi", null, text));
const to = (i, text) => make("a", { href: `#request-${i}` }, text);
const why = (table, reason) => table[reason] ? `: ${table[reason]}.` : ".";

export function story(i) {
  const found = [];
  const add = (bad, ...parts) => found.push(make("li", { class: bad ? "bad" : null }, parts));
  const more = new Map(model.more(i));
  const number = model.connection(i);
  const links = model.links(i);
  if (!model.observed(i)) add(false, "Nothing is known of its connection: otel-httptrace did not see it.");
  if (model.dialled(i)) {
    const reason = model.opened(i);
    add(!["", "first_connection", "all_busy"].includes(reason), `Opened connection ${number || ""} `, reason ? ["because of ", code(reason), why(because.opened, reason)] : ".");
  } else if (model.reused(i)) {
    const idle = more.get("httptrace.conn.idle");
    const before = more.get("httptrace.conn.requests");
    add(false, `Reused connection ${number || ""}${before ? `, which had carried ${counted(before)} request${before === 1 ? "" : "s"}` : ""}${idle ? ` and had been idle for ${seconds(idle)}` : ""}.`);
  }
  for (const link of links.filter((one) => one.kind === "lost_by")) {
    const line = link.target >= 0 ? model.at(link.target) : "";
    add(true, "The connection before was lost by ", link.target >= 0 ? to(link.target, "this request") : ["span ", code(link.span), " of trace ", code(link.trace)], line ? [" at ", code(line)] : "", ".");
  }
  const held = links.filter((one) => one.kind === "held_by");
  if (held.length) {
    add(true, "The pool was held by ", held.map((link, k) => [k ? ", " : "", link.target >= 0 ? to(link.target, `request ${link.target + 1}`) : code(link.span)]), ".");
  }
  if (model.failedIn(i)) add(true, `${model.failed(i) ? "Failed" : "Was cancelled"} in phase `, code(model.failedIn(i)), more.get("error.type") ? [" with ", code(String(more.get("error.type")))] : "", ".");
  const outcome = model.outcome(i);
  if (outcome && outcome !== "complete") {
    const read = more.get("httptrace.body.bytes_read");
    const size = more.get("http.response.body.size");
    const much = read === undefined ? "" : `, after ${counted(read)}${size === undefined ? "" : ` of ${counted(size)}`} bytes`;
    add(true, `Its body was ${because.outcome[outcome] || outcome}${much}`, model.at(i) ? [" at ", code(model.at(i))] : "", model.via(i) ? [", through ", code(model.via(i))] : "", ".");
  }
  if (model.closed(i)) add(lost(i), "The connection was then closed because of ", code(model.closed(i)), why(because.closed, model.closed(i)));
  const half = model.half(i);
  if (half && half.took >= 0) {
    const on = half.connection ? ` on its connection ${half.connection}` : "";
    const before = half.before === undefined ? "" : half.before ? `, which had carried ${counted(half.before)} request${half.before === 1 ? "" : "s"}` : ", which was new";
    add(false, "The server", half.service ? [", ", make("bdi", null, half.service), ","] : "", ` took ${seconds(half.took)} for it${on}${before}${half.idle ? ` and had been idle for ${seconds(half.idle)}` : ""}${half.inferred ? ", as the client's address and port tell" : ""}.`);
    if (half.closed) add(false, "The server's connection ended with it: ", code(half.closed), ".");
  }
  if (half && half.same !== undefined) add(false, half.same ? "Client and server see the same TCP connection: nothing stands between." : "Client and server do not see the same TCP connection: something stands between.");
  if (half && half.lost) add(true, `The server closed the connection, idle for ${seconds(half.lostIdle)}: `, code(half.lost), ".");
  return found.length ? make("ul", { class: "story" }, found) : null;
}
