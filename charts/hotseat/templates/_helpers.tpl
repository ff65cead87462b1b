{{/* Rights of the switcher by runtime, and the Service for KEDA: files that scripts/gen-chart copies. A Role in a later one replaces that of an earlier one. */}}
{{- define "hotseat.roles" }}
Auto: [knative/base/roles.yaml, deployment/role/role.yaml, keda/role/role.yaml, keda/role/service.yaml]
Knative: [knative/base/roles.yaml]
KEDA: [knative/base/roles.yaml, deployment/switcher-role.yaml, deployment/role/role.yaml, keda/role/role.yaml, keda/role/service.yaml]
Deployment: [knative/base/roles.yaml, deployment/switcher-role.yaml, deployment/role/role.yaml]
{{- end }}

{{/* Not empty if the runtime is, or may be, KEDA. */}}
{{- define "hotseat.keda" -}}
{{- if has .Values.runtime (list "Auto" "KEDA") }}true{{ end }}
{{- end }}

{{/* Labels of an object: (list $ "router"), or (list $) for one of no component. */}}
{{- define "hotseat.labels" -}}
{{- $root := first . -}}
app.kubernetes.io/part-of: hotseat
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ last . }}
{{- end }}
app.kubernetes.io/name: hotseat
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of the pods of a component. They never change. */}}
{{- define "hotseat.selector" -}}
app.kubernetes.io/part-of: hotseat
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Documents of copied files, by kind and name: (list $ PATH...). Of two with one name, the later one counts. */}}
{{- define "hotseat.copied" }}
{{- $root := first . }}
{{- $objects := dict }}
{{- range $path := rest . }}
{{- range $document := $root.Files.Get (print "files/" $path) | splitList "\n---\n" }}
{{- $object := fromYaml $document }}
{{- $_ := set $objects (print $object.kind " " $object.metadata.name) $object }}
{{- end }}
{{- end }}
{{- range $object := $objects }}
{{- $labels := include "hotseat.labels" (list $root) | fromYaml }}
{{- $_ := set $object.metadata "labels" (merge ($object.metadata.labels | default dict) $labels) }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}

{{- define "hotseat.brokerURL" -}}
{{- if .Values.broker.enabled }}http://broker-ingress.knative-eventing.svc.cluster.local/{namespace}/hotseat{{ end }}
{{- end }}

{{/* Data of the ConfigMap hotseat-settings. */}}
{{- define "hotseat.settings" -}}
HOTSEAT_IMAGE_PULL_SECRETS: {{ join "," .Values.image.pullSecrets | quote }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* What pods of the component have in common, and what makes Knative keep one: (list $ "router"). */}}
{{- define "hotseat.podMetadata" -}}
{{- $root := first . -}}
labels:
  {{- include "hotseat.selector" (last .) | nindent 2 }}
annotations:
  {{- if eq $root.Values.services "Knative" }}
  autoscaling.knative.dev/min-scale: "1"
  autoscaling.knative.dev/max-scale: "1"
  autoscaling.knative.dev/target-burst-capacity: "0"
  {{- end }}
  # Both read their settings and keys when they start.
  checksum/settings: {{ include "hotseat.settings" $root | sha256sum }}
  {{- if eq (last .) "router" }}
  checksum/keys: {{ toJson $root.Values.keys | sha256sum }}
  {{- end }}
{{- end }}

{{/* The container of a component, but for its environment and volumes: (list $ "router"). */}}
{{- define "hotseat.container" -}}
{{- $root := first . -}}
{{- $component := last . -}}
name: {{ $component }}
image: {{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [python, /app/{{ $component }}/app.py]
ports:
  - containerPort: 8080
  {{- if and (eq $component "switcher") (eq $root.Values.services "Deployment") (include "hotseat.keda" $root) }}
  - {name: scaler, containerPort: 8090}
  {{- end }}
envFrom:
  - configMapRef: {name: hotseat-settings, optional: true}
readinessProbe:
  httpGet:
    path: {{ eq $component "router" | ternary "/health" "/ready" }}
    {{- if eq $root.Values.services "Deployment" }}
    port: 8080
    {{- end }}
  periodSeconds: 1
livenessProbe:  # a process that has answered nothing for a minute
  httpGet:
    path: /health
    {{- if eq $root.Values.services "Deployment" }}
    port: 8080
    {{- end }}
  timeoutSeconds: 10
  failureThreshold: 6
{{- with (index $root.Values $component).resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A PodDisruptionBudget: (list $ "router"). Knative makes none, and its pods are replaced before they go. */}}
{{- define "hotseat.disruption" }}
{{- if eq (first .).Values.services "Deployment" }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: hotseat-{{ last . }}
  labels:
    {{- include "hotseat.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "hotseat.selector" (last .) | nindent 6 }}
{{- end }}
{{- end }}

{{/* The Models, as a JSON list of objects with `name`. */}}
{{- define "hotseat.models" }}
{{- $models := list }}
{{- if kindIs "slice" .Values.models }}
{{- $models = .Values.models }}
{{- else }}
{{- range $name, $model := .Values.models }}
{{- if $model }}
{{- $models = append $models (merge (dict "name" $name) $model) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $models }}
{{- end }}
