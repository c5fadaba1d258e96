{{/* The fields of a pod: those of allPods, with a component's own added: (list $ $component). */}}
{{- define "dti.podFields" -}}
{{- $all := (index . 0).Values.allPods -}}
{{- $own := index . 1 -}}
{{- $fields := dict -}}
{{- range $key := list "podLabels" "podAnnotations" "nodeSelector" "affinity" "podSecurityContext" "securityContext" -}}
{{- $_ := set $fields $key (mergeOverwrite (dict) (deepCopy (index $all $key | default dict)) (deepCopy (index $own $key | default dict))) -}}
{{- end -}}
{{- range $key := list "tolerations" "topologySpreadConstraints" "extraEnv" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" -}}
{{- $_ := set $fields $key (concat (index $all $key | default list) (index $own $key | default list)) -}}
{{- end -}}
{{- range $key := list "priorityClassName" "runtimeClassName" -}}
{{- $_ := set $fields $key (index $own $key | default (index $all $key)) -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end }}

{{/* Where a pod runs and with which rights: (list $ $fields). */}}
{{- define "dti.podSpec" -}}
{{- $root := index . 0 -}}
{{- $fields := index . 1 -}}
# A Service called dti would set DTI_PORT in every pod, which the processes read as a setting.
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $fields.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $fields $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" }}
{{- with index $fields $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Image, rights and resources of a container: (list $ "api" $fields $resources). */}}
{{- define "dti.containerSpec" -}}
{{- $root := index . 0 -}}
image: {{ include "dti.image" (list $root (index . 1)) }}
imagePullPolicy: {{ (index $root.Values.image (index . 1)).pullPolicy }}
{{- with (index . 2).securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "dti.resources" (index . 3) }}
{{- with (index . 2).extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The resources of a container. */}}
{{- define "dti.resources" -}}
{{- $resources := dict -}}
{{- range $key := list "requests" "limits" }}
{{- with index $ $key }}{{ $_ := set $resources $key . }}{{ end }}
{{- end }}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Lists of YAML, given as texts, as one list without empty lines. */}}
{{- define "dti.lines" -}}
{{- $texts := list -}}
{{- range . }}{{ $texts = append $texts (. | trim) }}{{ end -}}
{{- compact $texts | join "\n" -}}
{{- end }}

{{/*
The variables of a container, given as texts. Of two with one name the last one counts, so that
extraEnv overrides the chart's: an API server refuses names that stand twice.
*/}}
{{- define "dti.variables" -}}
{{- $values := dict -}}
{{- $names := list -}}
{{- range include "dti.lines" . | fromYamlArray -}}
{{- if not (hasKey $values .name) }}{{ $names = append $names .name }}{{ end -}}
{{- $_ := set $values .name . -}}
{{- end -}}
{{- $list := list -}}
{{- range $names }}{{ $list = append $list (index $values .) }}{{ end -}}
{{- toYaml $list -}}
{{- end }}

{{/* A list of YAML as text; nothing for an empty one. */}}
{{- define "dti.list" -}}
{{- with . }}{{ toYaml . }}{{ end -}}
{{- end }}

{{/* Variables of all processes: the store and access to it. */}}
{{- define "dti.storeEnv" -}}
- name: DTI_STORE
  value: {{ .Values.store | quote }}
{{- range $name, $value := .Values.s3.settings }}
- name: DTI_S3_{{ upper $name }}
  value: {{ include "dti.scalar" $value | quote }}
{{- end }}
{{- with .Values.s3 }}
{{- if .existingSecret }}
{{- $secret := .existingSecret }}
{{- range $name, $key := dict "AWS_ACCESS_KEY_ID" .accessKeyIdKey "AWS_SECRET_ACCESS_KEY" .secretAccessKeyKey "AWS_SESSION_TOKEN" .sessionTokenKey }}
{{- if $key }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables of a process's own settings, such as `generation_timeout_s: 300`. */}}
{{- define "dti.settingsEnv" -}}
{{- range $name, $value := . }}
- name: DTI_{{ upper $name }}
  value: {{ include "dti.scalar" $value | quote }}
{{- end }}
{{- end }}

{{/* The variable of the secret between callers and engines. */}}
{{- define "dti.engineSecretEnv" -}}
- name: DTI_ENGINE_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ include "dti.engineSecret" . }}
      key: {{ .Values.engineSecret.existingSecret | empty | ternary "engine-secret" .Values.engineSecret.key }}
{{- end }}

{{/* Variables of the hub and the model cache. */}}
{{- define "dti.hubEnv" -}}
- name: HF_HOME
  value: /models
{{- if .Values.huggingFace.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.huggingFace.existingSecret }}
      key: {{ .Values.huggingFace.key }}
{{- end }}
{{- end }}

{{/* The volume of the model cache. */}}
{{- define "dti.cacheVolume" -}}
- name: models
  {{- if .Values.modelCache.nodePath }}
  hostPath:
    path: {{ .Values.modelCache.nodePath }}
    type: Directory
  {{- else if include "dti.cacheClaim" . }}
  persistentVolumeClaim:
    claimName: {{ include "dti.cacheClaim" . }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.modelCache.sizeLimit }}
  {{- end }}
{{- end }}

{{/* The volume and mount of the models' ConfigMap. */}}
{{- define "dti.modelsVolume" -}}
- name: catalog
  configMap:
    name: {{ include "dti.fullname" . }}-models
{{- end }}
{{- define "dti.modelsMount" -}}
- name: catalog
  mountPath: /etc/dti
  readOnly: true
{{- end }}
