// Models, requests, switches and events, as lists.
import { useState } from "preact/hooks";
import { post } from "./api";
import { clock, count, seconds } from "./format";
import { Logs } from "./logs";
import { SwitchLine } from "./overview";
import { Action, Name, notify, Rows, State } from "./parts";
import { events, models, now, queues, requests, running, soon, switches, workspaces, type Model, type Request } from "./state";
import { TimeLine } from "./timeline";

function Find({ value, set, what }: { value: string; set: (text: string) => void; what: string }) {
  return <input type="search" placeholder={`Find ${what}`} aria-label={`Find ${what}`} value={value} onInput={(event) => set(event.currentTarget.value)} />;
}

const tell = (name: string, what: string) => post(`api/models/${encodeURIComponent(name)}/${what}`).then(() => {
  notify(`${what} requested: ${name}`);
  soon();
});

export function Commands({ model }: { model: Model }) {
  if (model.engine === "external") return null;
  const resident = running.value.some((each) => each.model === model.id);
  return (
    <span class="actions">
      {resident ? <Action run={() => tell(model.id, "unload")} label={`Unload ${model.id}`}>Unload</Action>
        : <Action run={() => tell(model.id, "load")} label={`Load ${model.id}`}>Load</Action>}
      {model.status.pinned ? <Action run={() => tell(model.id, "unpin")} label={`Unpin ${model.id}`}>Unpin</Action>
        : <Action run={() => tell(model.id, "pin")} label={`Pin ${model.id}`}>Pin</Action>}
    </span>
  );
}

export function Models() {
  const [text, setText] = useState("");
  const rows = models.value.filter((each) => [each.id, ...each.names].some((name) => name.toLowerCase().includes(text.toLowerCase())));
  const several = workspaces.value.length > 1;
  return (
    <section class="card tall">
      <header><h2>Models</h2><Find value={text} set={setText} what="a model" /></header>
      <Rows rows={rows} height={44} empty={models.value.length ? "No model has this name." : "There are no models yet. Add a document, and it appears here."}
        head={<tr><th>Model</th><th>State</th>{several && <th class="wide">Workspace</th>}<th class="wide">Engine</th><th class="number">In flight</th><th class="number">Waiting</th><th>Actions</th></tr>}
        row={(each) => {
          const queue = queues.value.find((one) => one.metadata_name === each.metadata_name);
          return (
            <tr key={each.metadata_name} style={{ height: "44px" }}>
              <td><Name>{each.id}</Name></td>
              <td><State value={each.status.state} /> {each.status.pinned && <span class="tag">pinned</span>}</td>
              {several && <td class="wide">{each.workspace}</td>}
              <td class="wide">{each.engine}</td>
              <td class="number">{count(queue?.in_flight ?? 0)}</td><td class="number">{count(queue?.waiting ?? 0)}</td>
              <td><Commands model={each} /></td>
            </tr>
          );
        }} />
    </section>
  );
}

export function OneModel({ name }: { name: string }) {
  const model = models.value.find((each) => each.id === name || each.names.includes(name));
  if (!model) return <p class="empty">No model has the name {name}.</p>;
  const story = running.value.filter((each) => each.model === model.id).flatMap((each) => each.story);
  return (
    <>
      <section class="card">
        <header><h2>{model.id}</h2><Commands model={model} /></header>
        <dl class="facts">
          <dt>State</dt><dd><State value={model.status.state} />{model.status.since && <> for {seconds((now.value - Date.parse(model.status.since)) / 1000)}</>}</dd>
          {model.status.message && <><dt>Message</dt><dd>{model.status.message}</dd></>}
          <dt>Names</dt><dd>{model.names.join(", ")}</dd>
          <dt>Engine</dt><dd>{model.engine}</dd>
          <dt>Workspace</dt><dd>{model.workspace}</dd>
          {model.description && <><dt>Description</dt><dd>{model.description}</dd></>}
          {story.map((step) => <><dt>{clock(Date.parse(step.at))}</dt><dd>{step.from && <>{step.from} → </>}{step.to}: {step.why}</dd></>)}
        </dl>
      </section>
      <TimeLine model={model.id} />
      <Logs name={model.id} />
    </>
  );
}

export function Requests() {
  const [text, setText] = useState("");
  const rows = requests.value.filter((each) => `${each.model} ${each.tenant ?? ""} ${each.route}`.toLowerCase().includes(text.toLowerCase()));
  return (
    <section class="card tall">
      <header><h2>Requests</h2><Find value={text} set={setText} what="a request" /></header>
      <Rows rows={rows} height={36} empty="No request yet. Try a model in the playground."
        head={<tr><th>Time</th><th>Model</th><th class="wide">Route</th><th class="wide">Key</th><th>Status</th><th class="number">Waited</th><th class="number wide">Switch</th>
          <th class="number wide">First token</th><th class="number">Total</th><th class="number wide">Prompt</th><th class="number wide">Generated</th><th class="number wide">Tokens/s</th><th /></tr>}
        row={(each: Request) => (
          <tr key={each.id} style={{ height: "36px" }}>
            <td>{clock(Date.parse(each.arrived_at))}</td>
            <td><Name>{each.model}</Name>{each.wanted && <small> for {each.wanted}</small>}</td>
            <td class="wide">{each.route}</td><td class="wide">{each.tenant ?? ""}</td>
            <td>{each.state === "ended" ? <span class={(each.status ?? 0) < 400 ? "good" : "bad"}>{each.status}</span> : <State value={each.state.replace("_", " ")} />}</td>
            <td class="number">{seconds(each.waited)}</td><td class="number wide">{seconds(each.switch_seconds)}</td>
            <td class="number wide">{seconds(each.ttft)}</td>
            <td class="number">{seconds(each.state === "ended" ? each.seconds : (now.value - Date.parse(each.arrived_at)) / 1000)}</td>
            <td class="number wide">{count(each.prompt_tokens)}{each.cached_tokens ? <small> ({each.cached_tokens} cached)</small> : ""}</td>
            <td class="number wide">{count(each.completion_tokens)}</td>
            <td class="number wide">{each.tokens_per_second === null ? "–" : each.tokens_per_second.toFixed(1)}</td>
            <td>{each.state !== "ended" && <Action danger label={`Cancel ${each.id}`} run={() => post(`api/requests/${each.id}/cancel`).then(() => soon())}>Cancel</Action>}</td>
          </tr>
        )} />
    </section>
  );
}

export function Switches() {
  return (
    <section class="card">
      <header><h2>Switches</h2></header>
      {switches.value.length === 0 && <p class="empty">No switch yet. The first request for a model makes one.</p>}
      <ul class="list">{switches.value.slice(0, 500).map((each) => <SwitchLine key={each.id} id={each.id} />)}</ul>
    </section>
  );
}

export function Events() {
  const [text, setText] = useState("");
  const rows = events.value.filter((each) => `${each.type} ${each.subject}`.includes(text)).reverse();
  return (
    <section class="card tall">
      <header><h2>Events</h2><Find value={text} set={setText} what="an event" /></header>
      <Rows rows={rows} height={32} empty="No event yet."
        head={<tr><th>Time</th><th>Type</th><th>Model</th><th class="wide">Data</th></tr>}
        row={(each) => (
          <tr key={each.id} style={{ height: "32px" }}>
            <td>{clock(each.at)}</td><td>{each.type}</td><td>{each.subject && <Name>{each.subject}</Name>}</td>
            <td class="wide data">{Object.entries(each.data).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ")}</td>
          </tr>
        )} />
    </section>
  );
}
