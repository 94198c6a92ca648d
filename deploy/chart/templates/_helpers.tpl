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
{{- end }}

{{- define "berth.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  initialDelaySeconds: 10
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
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
