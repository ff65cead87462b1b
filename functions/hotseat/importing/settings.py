"""Settings of llama-swap and llmsnap: those that are converted, and the reasons for the others."""

from collections.abc import Mapping

# Converted, or reported elsewhere.
MODEL_KEYS = frozenset({
    "cmd", "cmdStop", "proxy", "aliases", "env", "checkEndpoint", "ttl", "unloadTimeout", "unlisted", "useModelName", "name",
    "description", "concurrencyLimit", "filters", "macros", "metadata", "sleepMode", "sleepEndpoints", "wakeEndpoints",
    "sleepEndpoint", "sleepMethod", "sleepBody", "sleepTimeout", "wakeEndpoint", "wakeMethod", "wakeBody", "wakeTimeout",
})  # fmt: skip
TOP_KEYS = frozenset({
    "models", "macros", "groups", "matrix", "routing", "hooks", "peers", "apiKeys", "profiles", "healthCheckTimeout", "globalTTL",
    "unloadTimeout", "sleepMode",
})  # fmt: skip
GROUP_KEYS = frozenset({"swap", "exclusive", "persistent", "members"})
PEER_KEYS = frozenset({"proxy", "models", "apiKey"})

# No equivalent, and what to do instead.
MODEL_LOST: Mapping[str, str] = {
    "sendLoadingState": "clients that want progress while they wait send the header X-Hotseat-Loading: comments",
    "timeouts": "hotseat has its own connect timeout, and waits for an answer as long as the client does",
    "capabilities": "hotseat has spec.capabilities for the kinds of requests that a Model serves",
}
TOP_LOST: Mapping[str, str] = {
    "logLevel": "hotseat up --log-level debug|info|warning|error",
    "logTimeFormat": "times in hotseat's log are RFC 3339",
    "logToStdout": "hotseat's own log is on standard error; hotseat logs MODEL prints an engine's",
    "metricsMaxInMemory": "hotseat up --request-log FILE keeps a line for each request; GET /metrics is for Prometheus",
    "captureBuffer": "hotseat records no bodies",
    "store": "hotseat up --request-log FILE keeps a line for each request",
    "performance": "hotseat does not monitor the accelerator",
    "ui": "use hotseat ps, switches and events instead",
    "startPort": "a free port is chosen at each start",
    "sendLoadingState": MODEL_LOST["sendLoadingState"],
    "includeAliasesInList": "GET /v1/models lists a Model once, with all its names",
    "upstream": "GET below /upstream loads nothing",
}
