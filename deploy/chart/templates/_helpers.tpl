{{- define "berth.labels" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "berth.selector" -}}
app.kubernetes.io/component: {{ . }}
app.kubernetes.io/name: berth
{{- end }}

{{/* The objects of files that match a glob, with the release's labels and namespace. */}}
{{- define "berth.files" -}}
{{- $root := .root }}
{{- range $path, $_ := $root.Files.Glob .glob }}
{{- range $text := regexSplit "(?m)^---$" ($root.Files.Get $path) -1 }}
{{- with fromYaml (replace "berth-system" $root.Release.Namespace $text) }}
{{- $_ := set .metadata "labels" (merge (include "berth.labels" $root | fromYaml) (get .metadata "labels" | default dict)) }}
{{- if get $ "annotations" }}
{{- $_ := set .metadata "annotations" (merge (deepCopy (get $ "annotations")) (get .metadata "annotations" | default dict)) }}
{{- end }}
---
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "berth.image" -}}
image: {{ printf "%s/%s:%s" .root.Values.image.registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- with .root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* Flags that differ from their defaults. */}}
{{- define "berth.args" -}}
{{- $args := list }}
{{- with .root.Values }}
{{- if .loadBalancerClass }}{{ $args = append $args (printf "--load-balancer-class=%s" .loadBalancerClass) }}{{ end }}
{{- if not .defaultLoadBalancer }}{{ $args = append $args "--default-load-balancer=false" }}{{ end }}
{{- if ne .log.level "info" }}{{ $args = append $args (printf "--log-level=%s" .log.level) }}{{ end }}
{{- if ne .log.format "logfmt" }}{{ $args = append $args (printf "--log-format=%s" .log.format) }}{{ end }}
{{- if .metrics.tls.secretName }}{{ $args = concat $args (list "--metrics-tls-cert-file=/etc/berth/metrics/tls.crt" "--metrics-tls-private-key-file=/etc/berth/metrics/tls.key") }}{{ end }}
{{- if .metrics.auth }}{{ $args = append $args "--metrics-auth" }}{{ end }}
{{- end }}
{{- with concat $args .extra }}
args:
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What both Pods have in common. */}}
{{- define "berth.podMeta" -}}
labels:
  {{- include "berth.selector" .name | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "berth.podSpec" -}}
serviceAccountName: {{ .name }}
terminationGracePeriodSeconds: 10
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with .root.Values.metrics.tls.secretName }}
volumes:
- name: metrics-tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{/* What is the same in both containers. */}}
{{- define "berth.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
    {{- include "berth.probeScheme" . | nindent 4 }}
  initialDelaySeconds: 10
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
    {{- include "berth.probeScheme" . | nindent 4 }}
{{- if .Values.metrics.tls.secretName }}
volumeMounts:
- name: metrics-tls
  mountPath: /etc/berth/metrics
  readOnly: true
{{- end }}
{{- end }}

{{- define "berth.probeScheme" -}}
{{- if .Values.metrics.tls.secretName }}scheme: HTTPS{{ end }}
{{- end }}

{{/* An endpoint of a PodMonitor or ServiceMonitor. */}}
{{- define "berth.endpoint" -}}
port: metrics
{{- if .root.Values.metrics.tls.secretName }}
scheme: https
{{- end }}
{{- with .monitor.interval }}
interval: {{ . }}
{{- end }}
relabelings:
- sourceLabels: [__meta_kubernetes_pod_node_name]
  targetLabel: node
{{- with .monitor.endpoint }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Refuses the creation of what is not enabled. */}}
{{- define "berth.refuse" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - apiGroups: [berth.dev]
      apiVersions: ["*"]
      operations: [CREATE]
      resources: {{ .resources | toJson }}
  validations:
  - expression: "false"
    reason: Forbidden
    message: {{ .message }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end }}
