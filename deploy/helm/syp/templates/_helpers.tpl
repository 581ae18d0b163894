{{- define "syp.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "syp.selector" -}}
app.kubernetes.io/name: syp-engine
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "syp.labels" -}}
{{ include "syp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "syp.account" -}}
{{ .Values.serviceAccount.name | default (include "syp.name" .) }}
{{- end }}

{{- define "syp.tls" -}}
{{- if and .Values.tls.secretName .Values.tls.certManager.issuer -}}
{{- fail "tls.secretName and tls.certManager.issuer exclude each other: give one" -}}
{{- end -}}
{{- if not (or .Values.tls.secretName .Values.tls.certManager.issuer) -}}
{{- fail "tokens must not cross a network in clear: give tls.secretName (a Secret of type kubernetes.io/tls), or tls.certManager.issuer" -}}
{{- end -}}
{{ .Values.tls.secretName | default (printf "%s-tls" (include "syp.name" .)) }}
{{- end }}

{{/* A role that all share in the cluster has the namespace in its name. */}}
{{- define "syp.clusterRole" -}}
{{ printf "%s-%s" .Release.Namespace (include "syp.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
