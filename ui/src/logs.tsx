// The log of a model's engine, followed.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, follow, send } from "./api";
import { Empty } from "./parts";
import { models } from "./state";

const KEPT = 2000; // lines

export function Logs({ name }: { name?: string }) {
  const [chosen, setChosen] = useState(name ?? models.value[0]?.id ?? "");
  const [lines, setLines] = useState<string[]>([]);
  const [problem, setProblem] = useState("");
  const box = useRef<HTMLPreElement>(null), stuck = useRef(true);
  const model = name ?? chosen;

  useEffect(() => {
    if (!model) return;
    setLines([]);
    setProblem("");
    let waiting: string[] = [], stop: (() => void) | null = null, over = false;
    const path = `api/models/${encodeURIComponent(model)}/logs`;
    send(`${path}?lines=1`).then(() => {
      if (over) return;
      stop = follow((last) => `${path}?follow=true&lines=${last ? 0 : 300}`, ({ data }) => { waiting.push(data); }, () => undefined);
    }, (error) => setProblem(error instanceof ApiError ? error.message : String(error)));
    const timer = window.setInterval(() => {
      if (!waiting.length) return;
      const news = waiting;
      waiting = [];
      setLines((old) => [...old, ...news].slice(-KEPT));
    }, 100);
    return () => { over = true; stop?.(); window.clearInterval(timer); };
  }, [model]);

  useEffect(() => {
    if (stuck.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);

  return (
    <section class={name ? "card" : "card tall"}>
      <header>
        {name ? <h2>Log</h2> : <h1>Logs</h1>}
        {!name && (
          <select aria-label="Model" value={chosen} onChange={(event) => setChosen(event.currentTarget.value)}>
            {models.value.map((each) => <option value={each.id}>{each.id}</option>)}
          </select>
        )}
      </header>
      {problem ? <Empty title="The log cannot be read">{problem}</Empty> : (
        <pre class="log" ref={box} tabIndex={0} aria-label={`Log of ${model}`}
          onScroll={(event) => { const at = event.currentTarget; stuck.current = at.scrollHeight - at.scrollTop - at.clientHeight < 30; }}>
          {lines.length ? lines.join("\n") : "The engine has written nothing yet."}
        </pre>
      )}
    </section>
  );
}
