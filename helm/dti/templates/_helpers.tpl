{{/* The name of the chart, for labels. */}}
{{- define "dti.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{/* The full name F, with which the names of all objects begin. validate.yaml checks its length. */}}
{{- define "dti.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "dti.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "dti.name" .) -}}
{{- end -}}
{{- end }}

{{/* Labels that select the pods of a component: (list $ "api"). */}}
{{- define "dti.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "dti.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels and annotations of an object: (list $ "api"), with (... $annotations $labels) if need be. */}}
{{- define "dti.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "dti.selectorLabels" (list $root (index . 1)) | nindent 2 }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
  {{- $more := dict }}{{ if gt (len .) 3 }}{{ $more = index . 3 }}{{ end }}
  {{- with merge (deepCopy $more) $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $own := dict }}{{ if gt (len .) 2 }}{{ $own = index . 2 }}{{ end }}
{{- with merge (deepCopy ($own | default dict)) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image: (list $ "api"). */}}
{{- define "dti.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* A number, boolean or text as the value of a variable; large numbers without an exponent. */}}
{{- define "dti.scalar" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* The service account of all pods, and that of Ray heads that scale. */}}
{{- define "dti.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "dti.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end }}
{{- define "dti.headServiceAccount" -}}
{{- .Values.serviceAccount.headName | default (printf "%s-head" (include "dti.fullname" .)) -}}
{{- end }}

{{/* Names of Secrets and claims, which the user may bring. */}}
{{- define "dti.engineSecret" -}}
{{- .Values.engineSecret.existingSecret | default (printf "%s-engine" (include "dti.fullname" .)) -}}
{{- end }}
{{- define "dti.raySecret" -}}
{{- .Values.rayToken.existingSecret | default (printf "%s-ray" (include "dti.fullname" .)) -}}
{{- end }}
{{- define "dti.cacheClaim" -}}
{{- if .Values.modelCache.existingClaim -}}
{{- .Values.modelCache.existingClaim -}}
{{- else if .Values.modelCache.claim.enabled -}}
{{- printf "%s-models" (include "dti.fullname" .) -}}
{{- end -}}
{{- end }}

{{/* The address of the engines, which is the same over upgrades of the RayService. */}}
{{- define "dti.enginesUrl" -}}
{{- printf "http://%s-inference-serve-svc.%s:8000/engines" (include "dti.fullname" .) .Release.Namespace -}}
{{- end }}

{{/* Defaults of the code, as JSON: files/defaults.json. */}}
{{- define "dti.defaults" -}}
{{- .Files.Get "files/defaults.json" -}}
{{- end }}

{{/* The seconds that a request for images may take. All grace periods derive from it. */}}
{{- define "dti.generationSeconds" -}}
{{- $default := (include "dti.defaults" . | fromJson).api.generation_timeout_s -}}
{{- .Values.api.settings.generation_timeout_s | default $default | ceil | int -}}
{{- end }}

{{/* The seconds in which an API pod and an engine finish their requests. */}}
{{- define "dti.drainSeconds" -}}
{{- add (include "dti.generationSeconds" .) 30 -}}
{{- end }}

{{/* The models as JSON, which all processes read. */}}
{{- define "dti.modelsJson" -}}
{{- toJson .Values.models -}}
{{- end }}
