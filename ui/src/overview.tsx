// Now: who is resident, who waits, why and for how long.
import { post } from "./api";
import { bytes, seconds } from "./format";
import { Action, Name, State } from "./parts";
import { inFlightTotal, models, now, parked, queues, requests, running, soon, switches, waitingTotal, workspaces, type Queue } from "./state";
import { TimeLine } from "./timeline";

export function Overview() {
  return (
    <>
      <Figures />
      <TimeLine />
      <div class="columns">
        <Residents />
        <Waiting />
      </div>
      <LastSwitches />
    </>
  );
}

function Figures() {
  const ended = requests.value.filter((each) => each.state === "ended" && now.value - Date.parse(each.arrived_at) < 60_000 + 1000 * each.seconds);
  const tokens = ended.reduce((sum, each) => sum + (each.completion_tokens ?? 0), 0);
  const last = switches.value[0];
  const lost = switches.value.filter((each) => now.value - Date.parse(each.started_at) < 3_600_000)
    .reduce((sum, each) => sum + (each.phases.total ?? 0), 0);
  return (
    <dl class="figures">
      <div><dt>resident</dt><dd>{running.value.length}</dd></div>
      <div><dt>in flight</dt><dd>{inFlightTotal.value}</dd></div>
      <div class={waitingTotal.value ? "hot" : ""}><dt>waiting</dt><dd>{waitingTotal.value}</dd></div>
      <div><dt>requests, last minute</dt><dd>{ended.length}</dd></div>
      <div><dt>tokens, last minute</dt><dd>{tokens}</dd></div>
      <div><dt>last switch</dt><dd>{last ? seconds(last.phases.total) : "–"}</dd></div>
      <div><dt>switching, last hour</dt><dd>{seconds(lost)}</dd></div>
    </dl>
  );
}

function Residents() {
  return (
    <section class="card">
      <header><h2>On the accelerator</h2></header>
      {running.value.length === 0 && <p class="empty">Nothing is loaded. The accelerator is free.</p>}
      <ul class="list">
        {running.value.map((each) => (
          <li key={each.instance}>
            <div class="what"><Name>{each.model}</Name> <State value={each.state} /> {each.pinned && <span class="tag">pinned</span>}</div>
            <div class="more">
              {each.in_flight} in flight{each.since && <> · for {seconds((now.value - Date.parse(each.since)) / 1000)}</>}
              {each.devices.length > 0 && <> · GPU {each.devices.join(", ")}</>}
              {workspaces.value.length > 1 && <> · {each.workspace}</>}
            </div>
            <Action label={`Unload ${each.model}`} run={async () => { await post(`api/models/${encodeURIComponent(each.model)}/unload`); soon(); }}>Unload</Action>
          </li>
        ))}
        {parked.value.map((each) => (
          <li key={each.instance}>
            <div class="what"><Name>{each.model}</Name> <State value="parked" /></div>
            <div class="more">{each.memory !== null && <>{bytes(each.memory)} of host memory</>}</div>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Waiting() {
  const rows = queues.value.filter((each) => each.waiting > 0);
  return (
    <section class="card">
      <header><h2>Waiting</h2></header>
      {rows.length === 0 && <p class="empty">No request waits.</p>}
      <ul class="list">
        {rows.map((each) => (
          <li key={each.workspace + each.model}>
            <div class="what"><Name>{each.model}</Name> <b>{each.waiting}</b> {each.waiting === 1 ? "request" : "requests"}</div>
            <div class="more">the oldest for {seconds(each.oldest_seconds)} · {why(each)}</div>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Return why the queue of a model waits, and until when at the latest. */
function why(queue: Queue): string {
  const model = models.value.find((each) => each.metadata_name === queue.metadata_name);
  const state = model?.status.state.toLowerCase() ?? "";
  const message = model?.status.message;
  if (message) return message;
  if (state === "loading" || state === "waking") return `it is ${state}`;
  if (state === "ready") return "all its slots are busy";
  const bound = workspaces.value.find((each) => each.name === queue.workspace)?.effective_max_wait;
  const others = running.value.filter((each) => each.workspace === queue.workspace && each.model !== queue.model);
  const pinned = others.filter((each) => each.pinned);
  if (others.length && pinned.length === others.length) return `${pinned.map((each) => each.model).join(", ")} is pinned`;
  const busy = others.map((each) => each.model).join(", ");
  const turn = bound ? `its turn is in ${seconds(Math.max(0, bound - (queue.oldest_seconds ?? 0)))} at the latest` : "";
  return [busy && `${busy} serves its batch`, turn].filter(Boolean).join("; ") || "it is next";
}

function LastSwitches() {
  const rows = switches.value.slice(0, 6);
  return (
    <section class="card">
      <header><h2>Last switches</h2><a href="#/switches">All</a></header>
      {rows.length === 0 && <p class="empty">No switch yet.</p>}
      <ul class="list">{rows.map((each) => <SwitchLine key={each.id} id={each.id} />)}</ul>
    </section>
  );
}

export function SwitchLine({ id }: { id: string }) {
  const each = switches.value.find((one) => one.id === id);
  if (!each) return null;
  const total = each.phases.total || 1e-9;
  const parts = (["drain", "save", "release", "load", "restore"] as const).filter((phase) => each.phases[phase]);
  return (
    <li class="switch">
      <div class="what">
        {each.from.map((name) => <Name>{name}</Name>)}{each.from.length > 0 && " → "}<Name>{each.to}</Name>{" "}
        {each.outcome !== "completed" && <State value={each.outcome} />}
      </div>
      <div class="more">
        {new Date(each.started_at).toLocaleTimeString()} · {each.reason} · {each.waiting} waited{each.phases.wait ? <> for {seconds(each.phases.wait)}</> : ""}
        {each.message && <> · {each.message}</>}
      </div>
      <div class="phases" role="img" aria-label={parts.map((phase) => `${phase} ${seconds(each.phases[phase])}`).join(", ")}>
        {parts.map((phase) => (
          <span class={`p-${phase}`} style={{ flexGrow: (each.phases[phase] ?? 0) / total }} title={`${phase} ${seconds(each.phases[phase])}`} />
        ))}
      </div>
      <b class="number">{seconds(each.phases.total)}</b>
    </li>
  );
}
