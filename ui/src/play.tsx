// Try a model: chat (streamed, with images), embeddings, transcription, speech, images, rerank, and a raw request.
import { useRef, useState } from "preact/hooks";
import { base, eventsOf, key, send } from "./api";
import { seconds } from "./format";
import { Choices, Empty, notify } from "./parts";
import { models } from "./state";

type Kind = "chat" | "embeddings" | "transcription" | "speech" | "image" | "rerank" | "raw";
const KINDS = [["chat", "Chat"], ["embeddings", "Embeddings"], ["transcription", "Transcription"], ["speech", "Speech"], ["image", "Images"],
  ["rerank", "Rerank"], ["raw", "Raw request"]] as const;
const CAPABILITIES: Partial<Record<Kind, string>> = { chat: "chat", embeddings: "embedding", transcription: "transcription", speech: "speech", image: "image", rerank: "rerank" };

interface Message { role: "user" | "assistant"; text: string; thinking?: string; image?: string; note?: string; bad?: boolean }

export function Playground() {
  const [kind, setKind] = useState<Kind>("chat");
  const [model, setModel] = useState("");
  const needed = CAPABILITIES[kind];
  const fit = models.value.filter((each) => !needed || !each.capabilities?.length || each.capabilities.includes(needed));
  const others = models.value.filter((each) => !fit.includes(each));
  const chosen = models.value.some((each) => each.id === model) ? model : (fit.find((each) => each.status.state === "ready") ?? fit.find((each) => !each.status.failed) ?? fit[0])?.id ?? models.value[0]?.id ?? "";
  return (
    <section class="card play">
      <header>
        <h1>Playground</h1>
        <select aria-label="Model" value={chosen} onChange={(event) => setModel(event.currentTarget.value)}>
          {fit.map((each) => <option value={each.id}>{each.id}</option>)}
          {others.length > 0 && <optgroup label={`Without ${needed}`}>{others.map((each) => <option value={each.id}>{each.id}</option>)}</optgroup>}
        </select>
      </header>
      <Choices label="Kind of request" all={KINDS} value={kind} set={setKind} />
      {kind === "chat" ? <Chat model={chosen} /> : <Once key={kind} kind={kind} model={chosen} />}
    </section>
  );
}

function Curl({ line }: { line: string }) {
  return (
    <div class="curl">
      <code tabIndex={0}>{line}</code>
      <button type="button" onClick={() => void navigator.clipboard.writeText(line).then(() => notify("Copied"), () => notify("The browser does not allow it: select the line.", true))}
        aria-label="Copy the curl line">Copy</button>
    </div>
  );
}

const auth = () => (key.value ? ` -H "Authorization: Bearer $HOTSEAT_API_KEY"` : "");
const curlOf = (path: string, body: unknown) =>
  `curl ${new URL(path.replace(/^\//, ""), base).href}${auth()} -H 'Content-Type: application/json' -d ${quote(JSON.stringify(body))}`;

function Chat({ model }: { model: string }) {
  const [messages, setMessages] = useState<Message[]>([]);
  const [text, setText] = useState("");
  const [image, setImage] = useState("");
  const abort = useRef<AbortController | null>(null);
  const [busy, setBusy] = useState(false);
  const [system, setSystem] = useState("");
  const [most, setMost] = useState("");
  const [temperature, setTemperature] = useState("");

  const bodyOf = (history: readonly Message[]) => ({
    model, stream: true, stream_options: { include_usage: true },
    ...(most && { max_tokens: Number(most) }), ...(temperature && { temperature: Number(temperature) }),
    messages: [...(system ? [{ role: "system", content: system }] : []), ...history.map((each) => ({
      role: each.role,
      content: each.image ? [{ type: "text", text: each.text }, { type: "image_url", image_url: { url: each.image } }] : each.text,
    }))],
  });

  const submit = async () => {
    if (!text.trim() || busy) return;
    const asked: Message = { role: "user", text, ...(image && { image }) };
    const history = [...messages.filter((each) => !each.bad), asked];
    const answer: Message = { role: "assistant", text: "" };
    const show = () => setMessages([...history, { ...answer }]);
    show();
    setText("");
    setImage("");
    setBusy(true);
    const began = performance.now();
    let first = 0, tokens = 0;
    abort.current = new AbortController();
    try {
      const response = await send("v1/chat/completions", {
        method: "POST", body: JSON.stringify(bodyOf(history)), signal: abort.current.signal,
        headers: { "Content-Type": "application/json", "X-Hotseat-Loading": "reasoning" },
      });
      for await (const { data } of eventsOf(response)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        const delta = chunk.choices?.[0]?.delta ?? {};
        if (delta.reasoning_content) answer.thinking = (answer.thinking ?? "") + delta.reasoning_content;
        if (delta.content) {
          first ||= performance.now();
          answer.text += delta.content;
          tokens++;
        }
        tokens = chunk.usage?.completion_tokens ?? tokens;
        show();
      }
      const took = (performance.now() - (first || began)) / 1000;
      answer.note = `first token after ${seconds((first - began) / 1000)} · ${tokens} tokens · ${(tokens / Math.max(took, 0.001)).toFixed(1)}/s`;
    } catch (error) {
      answer.bad = true;
      answer.note = error instanceof DOMException ? "stopped" : String(error instanceof Error ? error.message : error);
    }
    show();
    setBusy(false);
  };

  const pick = (event: Event) => {
    const file = (event.currentTarget as HTMLInputElement).files?.[0];
    if (!file) return;
    const reader = new FileReader();
    reader.onload = () => setImage(String(reader.result));
    reader.readAsDataURL(file);
  };

  return (
    <div class="chat">
      {messages.length === 0 && <Empty title={`Say something to ${model || "a model"}`}>If it is not loaded, the answer tells how its load goes.</Empty>}
      <ol class="messages" aria-live="polite" tabIndex={messages.length ? 0 : undefined} aria-label="Conversation">

        {messages.map((each) => (
          <li class={each.role}>
            {each.image && <img src={each.image} alt="sent with the message" />}
            {each.thinking && <p class="thinking">{each.thinking}</p>}
            <p>{each.text}{each.role === "assistant" && !each.text && !each.note && <span class="dots">…</span>}</p>
            {each.note && <small class={each.bad ? "bad" : ""}>{each.note}</small>}
          </li>
        ))}
      </ol>
      <form onSubmit={(event) => { event.preventDefault(); void submit(); }}>
        <div class="options">
          <label>System prompt<input value={system} onInput={(event) => setSystem(event.currentTarget.value)} /></label>
          <label>Maximum tokens<input type="number" min="1" value={most} onInput={(event) => setMost(event.currentTarget.value)} /></label>
          <label>Temperature<input type="number" min="0" max="2" step="0.1" value={temperature} onInput={(event) => setTemperature(event.currentTarget.value)} /></label>
        </div>
        <textarea rows={3} aria-label="Message" placeholder="Message" value={text} onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); void submit(); } }} />
        <div class="actions">
          <label class="file">{image ? "Image chosen" : "Image…"}<input type="file" accept="image/*" onChange={pick} /></label>
          {messages.length > 0 && <button type="button" onClick={() => setMessages([])}>Clear</button>}
          {busy ? <button type="button" class="danger" onClick={() => abort.current?.abort()}>Stop</button> : <button type="submit" class="main">Send</button>}
        </div>
      </form>
      <Curl line={curlOf("v1/chat/completions", bodyOf([...messages.filter((each) => !each.bad), ...(text || !messages.length ? [{ role: "user" as const, text: text || "Hello" }] : [])]
        .map(({ image: _, ...each }) => each)))} />
    </div>
  );
}

interface Shape { path: string; body: (model: string, text: string) => unknown; ask: string; text: string; file?: boolean }
const SHAPES: Record<Exclude<Kind, "chat">, Shape> = {
  embeddings: { path: "v1/embeddings", ask: "Text", text: "The quick brown fox", body: (model, input) => ({ model, input }) },
  transcription: { path: "v1/audio/transcriptions", ask: "Prompt (optional)", text: "", file: true, body: () => ({}) },
  speech: { path: "v1/audio/speech", ask: "Text to speak", text: "Hello", body: (model, input) => ({ model, input, voice: "alloy" }) },
  image: { path: "v1/images/generations", ask: "Description", text: "A lighthouse in the fog", body: (model, prompt) => ({ model, prompt, n: 1, response_format: "b64_json" }) },
  rerank: { path: "v1/rerank", ask: "Query, then one document a line", text: "capital of France\nParis is the capital of France.\nBerlin is in Germany.",
    body: (model, text) => { const [query, ...documents] = text.split("\n"); return { model, query, documents: documents.filter(Boolean) }; } },
  raw: { path: "v1/completions", ask: "Body", text: "", body: (_, text) => JSON.parse(text) },
};

function Once({ kind, model }: { kind: Exclude<Kind, "chat">; model: string }) {
  const shape = SHAPES[kind];
  const raw = kind === "raw";
  const [text, setText] = useState(raw ? JSON.stringify({ model, prompt: "Once upon a time", max_tokens: 32 }, null, 2) : shape.text);
  const [path, setPath] = useState(shape.path);
  const [file, setFile] = useState<File | null>(null);
  const [busy, setBusy] = useState(false);
  const [result, setResult] = useState<{ text?: string; audio?: string; images?: string[]; note: string; bad?: boolean } | null>(null);

  const run = async () => {
    setBusy(true);
    const began = performance.now();
    const note = () => `after ${seconds((performance.now() - began) / 1000)}`;
    try {
      const init: RequestInit = { method: "POST" };
      if (shape.file) {
        const form = new FormData();
        form.set("model", model);
        if (text) form.set("prompt", text);
        if (file) form.set("file", file);
        init.body = form;
      } else {
        init.body = JSON.stringify(shape.body(model, text));
        init.headers = { "Content-Type": "application/json" };
      }
      const response = await send(path.replace(/^\//, ""), init);
      const type = response.headers.get("Content-Type") ?? "";
      if (type.startsWith("audio/")) setResult({ audio: URL.createObjectURL(await response.blob()), note: note() });
      else if (type.includes("json")) {
        const body = await response.json();
        const images = kind === "image" ? (body.data ?? []).map((each: any) => (each.b64_json ? `data:image/png;base64,${each.b64_json}` : "")).filter(Boolean) : [];
        setResult({ images, text: images.length ? "" : JSON.stringify(body, null, 2), note: note() });
      } else setResult({ text: await response.text(), note: note() });
    } catch (error) {
      setResult({ note: error instanceof Error ? error.message : String(error), bad: true });
    }
    setBusy(false);
  };

  let curl = "";
  try {
    curl = shape.file ? `curl ${new URL(path.replace(/^\//, ""), base).href}${auth()} -F model=${quote(model)} -F file=@${file?.name ?? "FILE"}` : curlOf(path, shape.body(model, text));
  } catch { /* the body is not JSON yet */ }

  return (
    <form class="once" onSubmit={(event) => { event.preventDefault(); void run(); }}>
      {raw && <label>Path<input value={path} onInput={(event) => setPath(event.currentTarget.value)} /></label>}
      {shape.file && <label>File<input type="file" accept="audio/*,video/*" onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)} /></label>}
      <label>{shape.ask}<textarea rows={raw ? 10 : 4} value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      <div class="actions"><button type="submit" class="main" disabled={busy || (shape.file && !file)} aria-busy={busy}>Send</button></div>
      {curl && <Curl line={curl} />}
      {result && (
        <div class="result" aria-live="polite">
          <small class={result.bad ? "bad" : ""}>{result.note}</small>
          {result.audio && <audio controls src={result.audio} />}
          {result.images?.map((each) => <img src={each} alt="generated" />)}
          {result.text && <pre class="log" tabIndex={0}>{result.text.slice(0, 100_000)}</pre>}
        </div>
      )}
    </form>
  );
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
