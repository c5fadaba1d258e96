{{/* Labels and annotations of a monitoring object: (list $ "api" $section). */}}
{{- define "dti.monitorMetadata" -}}
{{- include "dti.metadata" (list (index . 0) (index . 1) dict (index . 2).labels) -}}
{{- end }}

{{/* The labels `release` and `component` of all series of a target: (list $ "api"). */}}
{{- define "dti.targetLabels" -}}
- targetLabel: release
  replacement: {{ (index . 0).Release.Name }}
- targetLabel: component
  replacement: {{ index . 1 }}
{{- end }}
