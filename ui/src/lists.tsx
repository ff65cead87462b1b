// Models, requests, switches and events, as lists.
import { useEffect, useMemo, useState } from "preact/hooks";
import { get, post } from "./api";
import { bytes, clock, count, day, seconds } from "./format";
import { Logs } from "./logs";
import { longestOf, Phases, progressOf, SwitchLine } from "./overview";
import { Action, Choices, Empty, Find, Meter, Name, notify, Rows, Since, State } from "./parts";
import { events, models, oldest, queues, rates, remember, requests, running, settings, soon, switches, workspaces, type Model, type Request } from "./state";
import { TimeLine } from "./timeline";

const DAYS = 31 * 86_400; // seconds of history that lists ask for; hotseat keeps less

const tell = (name: string, what: string) => post(`api/models/${encodeURIComponent(name)}/${what}`).then(() => {
  notify(`${what} requested: ${name}`);
  soon();
});

export function Commands({ model, all }: { model: Model; all?: boolean }) {
  if (model.engine === "external") return null;
  const resident = running.value.some((each) => each.model === model.id);
  return (
    <span class="actions">
      {resident ? <Action run={() => tell(model.id, "unload")} label={`Unload ${model.id}`}>Unload</Action>
        : <Action run={() => tell(model.id, "load")} label={`Load ${model.id}`}>Load</Action>}
      {model.status.pinned ? <Action run={() => tell(model.id, "unpin")} label={`Unpin ${model.id}`}>Unpin</Action>
        : <Action run={() => tell(model.id, "pin")} label={`Pin ${model.id}`}>Pin</Action>}
      {all && resident && <Action run={() => tell(model.id, "park")} label={`Park ${model.id}`}>Park</Action>}
    </span>
  );
}

export function Models() {
  const [text, setText] = useState("");
  const rows = models.value.filter((each) => [each.id, ...each.names].some((name) => name.toLowerCase().includes(text.toLowerCase())));
  const several = workspaces.value.length > 1;
  const queue = new Map(queues.value.map((each) => [each.metadata_name, each]));
  return (
    <section class="card tall">
      <header><h1>Models</h1><Find value={text} set={setText} what="a model" /></header>
      <Rows rows={rows} height={44} label="Models"
        empty={models.value.length ? <Empty title="No model has this name" /> : <Empty title="There are no models yet">Add a document with a Model, and it appears here.</Empty>}
        head={<tr><th>Model</th><th>State</th>{several && <th class="wide">Workspace</th>}<th class="wide">Engine</th><th class="number wide">In flight</th><th class="number wide">Waiting</th>
          <th class="number wide">Tokens/s</th><th><span class="unseen">Actions</span></th></tr>}
        row={(each) => {
          const its = queue.get(each.metadata_name), rate = rates.value.get(each.id), progress = progressOf(each);
          return (
            <tr key={each.metadata_name}>
              <td class="model"><Name>{each.id}</Name></td>
              <td><State value={each.status.state} />{each.status.pinned && <span class="tag">pinned</span>}
                {progress !== null && progress < 1 && <Meter value={progress} label={`Progress of ${each.id}`} tone="warm" />}</td>
              {several && <td class="wide">{each.workspace}</td>}
              <td class="wide dim">{each.engine}</td>
              <td class="number wide">{its?.in_flight || <Zero />}</td><td class="number wide">{its?.waiting || <Zero />}</td>
              <td class="number wide">{rate === undefined ? <Zero /> : rate.toFixed(1)}</td>
              <td class="last"><Commands model={each} /></td>
            </tr>
          );
        }} />
    </section>
  );
}

const Zero = () => <span class="dim">–</span>;

interface Weights { source: string; bytes: number | null; path: string; model?: string; models?: string[] }

export function OneModel({ name }: { name: string }) {
  const [weights, setWeights] = useState<Weights[]>([]);
  const model = models.value.find((each) => each.id === name || each.names.includes(name));
  const local = settings.value?.cluster === false;
  useEffect(() => { if (local) get<any>("api/cache").then(({ entries }) => setWeights(entries ?? []), () => undefined); }, [name, local]);
  if (!model) return <section class="card"><Empty title={`No model has the name ${name}`}><a href="#/models">All models</a></Empty></section>;
  const instances = running.value.filter((each) => each.model === model.id), story = instances.flatMap((each) => each.story);
  const its = requests.value.filter((each) => each.model === model.id && each.state === "ended").slice(0, 100);
  const first = its.filter((each) => each.ttft !== null).map((each) => each.ttft!).sort((a, b) => a - b);
  const queue = queues.value.find((each) => each.metadata_name === model.metadata_name), rate = rates.value.get(model.id);
  const sources = weights.filter((each) => each.models?.includes(model.metadata_name) || each.models?.includes(model.id));
  return (
    <>
      <section class="card">
        <header><h1><Name>{model.id}</Name> <State value={model.status.state} />{model.status.pinned && <span class="tag">pinned</span>}</h1><Commands model={model} all /></header>
        {model.status.message && <p class={model.status.failed ? "alarm" : "note"}>{model.status.message}</p>}
        <dl class="figures inner">
          <div><dt>{model.status.state}</dt><dd>{model.status.since ? <Since at={model.status.since} /> : "–"}</dd></div>
          <div><dt>In flight</dt><dd>{queue?.in_flight ?? 0}</dd></div>
          <div><dt>Waiting</dt><dd>{queue?.waiting ?? 0}</dd></div>
          <div><dt>Tokens/s</dt><dd>{rate === undefined ? "–" : rate.toFixed(1)}</dd></div>
          <div><dt>First token, median</dt><dd>{seconds(first[first.length >> 1])}</dd></div>
        </dl>
        {queue?.message && <p class="note">{queue.message}</p>}
        <dl class="facts">
          <dt>Names</dt><dd>{model.names.join(", ")}</dd>
          <dt>Engine</dt><dd>{model.engine}</dd>
          <dt>Workspace</dt><dd>{model.workspace}</dd>
          {model.capabilities?.length > 0 && <><dt>Capabilities</dt><dd>{model.capabilities.join(", ")}</dd></>}
          {model.description && <><dt>Description</dt><dd>{model.description}</dd></>}
          {sources.map((each) => <><dt>Weights</dt><dd>{each.source}, {bytes(each.bytes)}</dd></>)}
          {story.map((step) => <><dt>{clock(Date.parse(step.at))}</dt><dd>{step.from && <>{step.from} → </>}{step.to}: {step.why}</dd></>)}
        </dl>
      </section>
      <TimeLine model={model.id} />
      <Logs name={model.id} />
    </>
  );
}

type Which = "all" | "going" | "failed";
const WHICH = [["all", "All"], ["going", "Going on"], ["failed", "Failed"]] as const;

export function Requests() {
  const [text, setText] = useState("");
  const [which, setWhich] = useState<Which>("all");
  const [open, setOpen] = useState("");
  useEffect(() => void remember("requests", DAYS), [settings.value?.history]);
  const rows = useMemo(() => requests.value.filter((each) =>
    (which === "all" || (which === "going" ? each.state !== "ended" : (each.status ?? 0) >= 400))
    && (!text || `${each.model} ${each.tenant ?? ""} ${each.route} ${each.status ?? ""}`.toLowerCase().includes(text.toLowerCase()))), [requests.value, text, which]);
  const chosen = requests.value.find((each) => each.id === open);
  return (
    <section class="card tall">
      <header><h1>Requests</h1><span class="dim">{count(rows.length)}<Kept /></span><Choices label="Which" all={WHICH} value={which} set={setWhich} /><Find value={text} set={setText} what="a request" /></header>
      {chosen && <Detail of={chosen} close={() => setOpen("")} />}
      <Rows rows={rows} height={36} label="Requests"
        empty={requests.value.length ? <Empty title="No request is like this" /> : <Empty title="No request yet">Try a model in the <a href="#/playground">playground</a>.</Empty>}
        head={<tr><th>Time</th><th>Model</th><th class="wide">Route</th><th class="wide">Key</th><th>Status</th><th class="number wide">Waited</th><th class="number wide">Switch</th>
          <th class="number wide">First token</th><th class="number">Total</th><th class="number wide">Prompt</th><th class="number wide">Generated</th><th class="number wide">Tokens/s</th><th><span class="unseen">Actions</span></th></tr>}
        row={(each: Request) => (
          <tr key={each.id} aria-selected={each.id === open}>
            <td><button type="button" class="plain" aria-label={`Details of ${each.id}`} aria-expanded={each.id === open} onClick={() => setOpen(each.id === open ? "" : each.id)}>{clock(Date.parse(each.arrived_at))}</button></td>
            <td class="narrow"><Name>{each.model}</Name>{each.wanted && <small> for {each.wanted}</small>}</td>
            <td class="wide dim">{each.route}</td><td class="wide">{each.tenant ?? ""}</td>
            <td>{each.state === "ended" ? <span class={`code ${(each.status ?? 0) < 400 ? "good" : "bad"}`}>{each.status}</span> : <State value={each.state.replace("_", " ")} />}</td>
            <td class="number wide">{seconds(each.waited)}</td><td class="number wide">{seconds(each.switch_seconds)}</td>
            <td class="number wide">{seconds(each.ttft)}</td>
            <td class="number">{each.state === "ended" ? seconds(each.seconds) : <Since at={each.arrived_at} />}</td>
            <td class="number wide">{count(each.prompt_tokens)}{each.cached_tokens ? <small> ({each.cached_tokens} cached)</small> : ""}</td>
            <td class="number wide">{count(each.completion_tokens)}</td>
            <td class="number wide">{each.tokens_per_second === null ? "–" : each.tokens_per_second.toFixed(1)}</td>
            <td class="last">{each.state !== "ended" && <Action danger label={`Cancel ${each.id}`} run={() => post(`api/requests/${each.id}/cancel`).then(() => soon())}>Cancel</Action>}</td>
          </tr>
        )} />
    </section>
  );
}

function Kept() {
  return oldest.value ? <> since {day(Date.parse(oldest.value))}</> : null;
}

/** Where the time of a request went, to scale. */
function Detail({ of, close }: { of: Request; close: () => void }) {
  const waited = of.waited ?? of.seconds, switched = Math.min(of.switch_seconds ?? 0, waited), first = Math.max(0, (of.ttft ?? 0) - waited);
  const all = [["queue", waited - switched], ["switch", switched], ["first token", first], ["answer", Math.max(0, of.seconds - waited - first)]] as const;
  const parts = all.filter(([, part]) => part > 0);
  const total = parts.reduce((sum, [, part]) => sum + part, 0) || 1;
  return (
    <div class="detail">
      <p><b>{of.id}</b> {of.route} to {of.model}{of.tenant && <> by {of.tenant}</>}, priority {of.priority}, {day(Date.parse(of.arrived_at))} {clock(Date.parse(of.arrived_at))}</p>
      <div class="phases">{parts.map(([name, part]) => <span class={`r-${name.split(" ")[0]}`} style={{ width: `${(100 * part) / total}%` }} title={`${name} ${seconds(part)}`} />)}</div>
      <ul class="legend">{parts.map(([name, part]) => <li class={`r-${name.split(" ")[0]}`}>{name} {seconds(part)}</li>)}</ul>
      <button type="button" onClick={close}>Close</button>
    </div>
  );
}

export function Switches() {
  const [text, setText] = useState("");
  useEffect(() => void remember("switches", DAYS), [settings.value?.history]);
  const rows = useMemo(() => switches.value.filter((each) => !text || `${each.from.join(" ")} ${each.to} ${each.reason} ${each.outcome}`.toLowerCase().includes(text.toLowerCase())), [switches.value, text]);
  const longest = useMemo(() => longestOf(rows), [rows]);
  return (
    <section class="card tall">
      <header><h1>Switches</h1><span class="dim">{count(rows.length)}<Kept /></span><Phases /><Find value={text} set={setText} what="a switch" /></header>
      <Rows rows={rows} height={52} label="Switches"
        empty={switches.value.length ? <Empty title="No switch is like this" /> : <Empty title="No switch yet">The first request for a model makes one.</Empty>}
        head={null} row={(each) => <tr key={each.id + each.started_at}><td class="whole"><ul class="switches"><SwitchLine of={each} longest={longest} /></ul></td></tr>} />
    </section>
  );
}

export function Events() {
  const [text, setText] = useState("");
  useEffect(() => void remember("events", 86_400), [settings.value?.history]);
  const rows = useMemo(() => events.value.filter((each) => !text || `${each.type} ${each.subject}`.includes(text)).reverse(), [events.value, text]);
  return (
    <section class="card tall">
      <header><h1>Events</h1><span class="dim">{count(rows.length)}</span><Find value={text} set={setText} what="an event" /></header>
      <Rows rows={rows} height={32} label="Events"
        empty={events.value.length ? <Empty title="No event is like this" /> : <Empty title="No event yet">hotseat reports every change of what is loaded.</Empty>}
        head={<tr><th>Time</th><th>Type</th><th>Model</th><th class="wide">Data</th></tr>}
        row={(each) => (
          <tr key={each.id}>
            <td>{clock(each.at)}</td><td><span class={/fail/.test(each.type) ? "bad" : ""}>{each.type}</span></td><td>{each.subject && <Name>{each.subject}</Name>}</td>
            <td class="wide data" title={JSON.stringify(each.data, null, 1)}>{Object.entries(each.data).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ")}</td>
          </tr>
        )} />
    </section>
  );
}
