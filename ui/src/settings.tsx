// What is in force: what the documents say, and what follows from it.
import { useEffect } from "preact/hooks";
import { key, useKey } from "./api";
import { bytes, clock, day, seconds } from "./format";
import { Empty } from "./parts";
import { gpus, oldest, readSettings, remember, settings, workspaces } from "./state";

type Values = { [name: string]: unknown };

export function Settings() {
  useEffect(() => void readSettings(), [workspaces.value.map((each) => each.effective_max_wait).join()]);
  const known = settings.value;
  useEffect(() => void remember("switches", 3600), [known?.history]);
  const since = oldest.value && Date.parse(oldest.value);
  return (
    <>
      <section class="card">
        <header><h1>Settings in force</h1>{known && <span class="dim">hotseat {known.version}</span>}</header>
        <dl class="facts">
          <dt>API keys</dt><dd>{key.value ? <>required; the key of this tab is sent. <button type="button" onClick={() => useKey("")}>Use another</button></> : "not required"}</dd>
          <dt>History</dt><dd>{!known ? "–" : known.history ? <>kept{since ? <>; it begins {day(since)} {clock(since, false)}</> : ""}</> : "not kept: the page begins with the start of hotseat"}</dd>
          <dt>GPU figures</dt><dd>{gpus.value.length ? `${gpus.value.length} read` : "none can be read here"}</dd>
        </dl>
      </section>
      {known?.workspaces.length === 0 && <section class="card"><Empty title="There is no Workspace yet" /></section>}
      {known?.workspaces.map((each) => <InForce key={each.name} of={each} />)}
    </>
  );
}

function InForce({ of }: { of: { name: string; document: Values; in_force: Values } }) {
  const said = new Map(flat(of.document)), all = flat(of.in_force);
  return (
    <section class="card">
      <header><h2>Workspace {of.name}</h2></header>
      <div class="sheet" tabIndex={0} role="region" aria-label={`Settings of ${of.name}`}>
        <table>
          <thead><tr><th>Setting</th><th>Document</th><th>In force</th></tr></thead>
          <tbody>
            {all.map(([name, value]) => (
              <tr key={name}>
                <td>{name}</td><td class={said.has(name) ? "" : "dim"}>{said.has(name) ? shown(name, said.get(name)) : "not set"}</td><td><b>{shown(name, value)}</b></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function flat(values: Values, prefix = ""): [string, unknown][] {
  return Object.entries(values).flatMap(([name, value]): [string, unknown][] =>
    value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length ? flat(value as Values, `${prefix}${name}.`) : [[prefix + name, value]]);
}

function shown(name: string, value: unknown): string {
  if (value === null || value === undefined) return /Wait$/.test(name) ? "Auto" : "–";
  if (typeof value === "number") return /bytes|memory|budget/i.test(name) ? bytes(value) : /wait$|residency|ageing|keep$|timeout|returnTo/i.test(name) ? seconds(value) : value.toLocaleString("en");
  if (Array.isArray(value)) return value.map((each) => (typeof each === "object" ? (each.name ?? JSON.stringify(each)) : each)).join(", ") || "–";
  return typeof value === "object" ? "–" : String(value);
}
