// Now: who is resident, who waits, why and until when, and what the last switches cost.
import { useMemo } from "preact/hooks";
import { post } from "./api";
import { bytes, clock, count, seconds } from "./format";
import { Action, Empty, Meter, Name, Since, State, Until } from "./parts";
import { gpus, inFlightTotal, models, now, parked, queues, rates, requests, running, soon, switches, waitingTotal, workspaces, type Gpu, type Model,
  type Queue, type Switch } from "./state";
import { TimeLine } from "./timeline";

export function Overview() {
  return (
    <>
      <h1 class="unseen">Now</h1>
      <Figures />
      <div class="columns">
        <Residents />
        <Waiting />
      </div>
      <TimeLine />
      <LastSwitches />
    </>
  );
}

function Figures() {
  const tick = Math.floor(now.value / 1000);
  const { ended, tokens, lost } = useMemo(() => {
    const last = requests.value.filter((each) => each.state === "ended" && now.value - Date.parse(each.arrived_at) < 60_000 + 1000 * each.seconds);
    return {
      ended: last.length, tokens: last.reduce((sum, each) => sum + (each.completion_tokens ?? 0), 0),
      lost: switches.value.filter((each) => now.value - Date.parse(each.started_at) < 3_600_000).reduce((sum, each) => sum + (each.phases.total ?? 0), 0),
    };
  }, [tick, requests.value, switches.value]);
  const last = switches.value.find((each) => each.outcome !== "running");
  return (
    <dl class="figures">
      <div><dt>In flight</dt><dd>{inFlightTotal.value}</dd></div>
      <div class={waitingTotal.value ? "hot" : ""}><dt>Waiting</dt><dd>{waitingTotal.value}</dd></div>
      <div><dt>Requests / min</dt><dd>{count(ended)}</dd></div>
      <div><dt>Tokens / min</dt><dd>{count(tokens)}</dd></div>
      <div><dt>Last switch</dt><dd>{last ? seconds(last.phases.total) : "–"}</dd></div>
      <div><dt>Switching / h</dt><dd>{seconds(lost)}</dd></div>
    </dl>
  );
}

/** Return how much of its load a model has behind it, 0 to 1, or null. */
export function progressOf(model: Model | undefined): number | null {
  const progress = model?.status.progress;
  if (typeof progress === "number") return progress;
  return progress?.total ? progress.done / progress.total : null;
}

const tell = (name: string, what: string) => async () => { await post(`api/models/${encodeURIComponent(name)}/${what}`); soon(); };

function Residents() {
  const several = workspaces.value.length > 1;
  return (
    <section class="card">
      <header><h2>On the accelerator</h2></header>
      {running.value.length === 0 && <Empty title="Nothing is loaded">The accelerator is free. The first request for a model loads it.</Empty>}
      <ul class="list">
        {running.value.map((each) => {
          const rate = rates.value.get(each.model), progress = progressOf(models.value.find((one) => one.id === each.model));
          return (
            <li key={each.instance} class="resident">
              <div class="what"><Name>{each.model}</Name><State value={each.state} />{each.pinned && <span class="tag">pinned</span>}</div>
              <div class="more">
                {each.in_flight} in flight{rate !== undefined && <> · {rate.toFixed(rate < 10 ? 1 : 0)} tokens/s</>}
                {each.since && <> · for <Since at={each.since} /></>}
                {each.devices.length > 0 && <> · GPU {each.devices.join(", ")}</>}
                {several && <> · {each.workspace}</>}
              </div>
              {progress !== null && /load|wak/i.test(each.state) && <Meter value={progress} label={`Load of ${each.model}`} tone="warm" />}
              <Action label={`Unload ${each.model}`} run={tell(each.model, "unload")}>Unload</Action>
            </li>
          );
        })}
        {parked.value.map((each) => (
          <li key={each.instance}>
            <div class="what"><Name>{each.model}</Name><State value="parked" /></div>
            <div class="more">{each.memory !== null && <>{bytes(each.memory)} of host memory</>}{each.since && <> · for <Since at={each.since} /></>}</div>
          </li>
        ))}
      </ul>
      {gpus.value.length > 0 && <ul class="gpus">{gpus.value.map((each) => <GpuLine key={each.id} gpu={each} />)}</ul>}
    </section>
  );
}

function GpuLine({ gpu }: { gpu: Gpu }) {
  const memory = gpu.memory_total ? (gpu.memory_used ?? 0) / gpu.memory_total : null;
  return (
    <li>
      <span>GPU {gpu.id} <small>{[gpu.name, workspaces.value.length > 1 ? gpu.workspace : null].filter(Boolean).join(" · ")}</small></span>
      <small class="number">
        {gpu.temperature !== null && <>{Math.round(gpu.temperature)} °C</>}{gpu.power !== null && <> · {Math.round(gpu.power)} W</>}
      </small>
      {memory !== null && <><Meter value={memory} label={`Memory of GPU ${gpu.id}`} /><small class="number">{bytes(gpu.memory_used)} of {bytes(gpu.memory_total)}</small></>}
      {gpu.utilization !== null && <><Meter value={gpu.utilization} label={`Utilisation of GPU ${gpu.id}`} tone="warm" /><small class="number">{Math.round(100 * gpu.utilization)}% busy</small></>}
    </li>
  );
}

const due = (queue: Queue) => (queue.expected_at ? Date.parse(queue.expected_at) : Number.MAX_VALUE);

function Waiting() {
  const rows = queues.value.filter((each) => each.waiting > 0)
    .sort((a, b) => a.behind.length - b.behind.length || due(a) - due(b) || (b.oldest_seconds ?? 0) - (a.oldest_seconds ?? 0));
  return (
    <section class="card">
      <header><h2>Next</h2></header>
      {rows.length === 0 && <Empty title="No request waits">A request for a model that is not loaded waits here, with the reason and the time of its turn.</Empty>}
      <ol class="list next">
        {rows.map((each) => {
          const bound = workspaces.value.find((one) => one.name === each.workspace)?.effective_max_wait;
          const tenants = Object.entries(each.tenants).filter(([name]) => name);
          return (
            <li key={each.workspace + each.model}>
              <div class="what"><Name>{each.model}</Name>{each.reason && <span class="tag">{each.reason.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}</span>}</div>
              <div class="more">
                {each.message && <>{each.message}.<br /></>}
                {each.waiting} {each.waiting === 1 ? "request" : "requests"}, the oldest for {seconds(each.oldest_seconds)}
                {bound ? <> of at most {seconds(bound)}</> : ""}
                {tenants.length > 1 && <> · {tenants.slice(0, 4).map(([name, number]) => `${name} ${number}`).join(", ")}</>}
              </div>
              {bound ? <Meter value={(each.oldest_seconds ?? 0) / bound} label={`Wait of ${each.model}`} tone="warm" /> : null}
              {each.expected_at && <b class="due"><Until at={each.expected_at} /></b>}
            </li>
          );
        })}
      </ol>
    </section>
  );
}

function LastSwitches() {
  const rows = switches.value.slice(0, 6);
  return (
    <section class="card">
      <header><h2>Last switches</h2><Phases /><a href="#/switches">All switches</a></header>
      {rows.length === 0 && <Empty title="No switch yet">Each switch is drawn here to scale: how long it drained, released and loaded.</Empty>}
      <ul class="switches">{rows.map((each) => <SwitchLine key={each.id + each.started_at} of={each} longest={longestOf(rows)} />)}</ul>
    </section>
  );
}

const PHASES = ["drain", "save", "release", "load", "restore"] as const;

export const longestOf = (rows: readonly Switch[]) => rows.reduce((most, each) => Math.max(most, each.phases.total ?? 0), 0.001);

export function Phases() {
  return <ul class="legend" aria-hidden="true">{PHASES.map((phase) => <li class={`p-${phase}`}>{phase}</li>)}</ul>;
}

/** A switch: its phases are drawn to the scale of the longest one in the list. */
export function SwitchLine({ of, longest }: { of: Switch; longest: number }) {
  const parts = PHASES.filter((phase) => of.phases[phase]);
  return (
    <li class="switch">
      <time>{clock(Date.parse(of.started_at))}</time>
      <div class="what">
        {of.from.map((name) => <Name>{name}</Name>)}{of.from.length > 0 && <span class="to"> → </span>}<Name>{of.to}</Name>
        {of.outcome !== "completed" && <State value={of.outcome} />}
      </div>
      <div class="phases" role="img" aria-label={parts.map((phase) => `${phase} ${seconds(of.phases[phase])}`).join(", ") || "no phase yet"}>
        {parts.map((phase) => (
          <span class={`p-${phase}`} style={{ width: `${(100 * (of.phases[phase] ?? 0)) / longest}%` }} title={`${phase} ${seconds(of.phases[phase])}`} />
        ))}
      </div>
      <b class="number">{seconds(of.phases.total)}</b>
      <div class="more" title={of.message}>
        {of.reason} · {of.waiting} waited{of.phases.wait ? <> {seconds(of.phases.wait)}</> : ""}{of.message && <> · {of.message}</>}
      </div>
    </li>
  );
}
