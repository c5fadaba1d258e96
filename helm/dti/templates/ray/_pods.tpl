{{/*
Labels and annotations of Ray's pods: (list $ "training" $fields). Nothing here may change with the
chart's version or the models, because KubeRay makes a cluster anew when its pods change.
*/}}
{{- define "dti.rayMetadata" -}}
{{- $root := index . 0 -}}
{{- $fields := index . 2 -}}
metadata:
  labels:
    {{- include "dti.selectorLabels" (list $root (index . 1)) | nindent 4 }}
    {{- with merge $fields.podLabels $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $fields.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The container of Ray: (list $ "training" $fields $pod $drainSeconds). */}}
{{- define "dti.rayContainer" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $fields := index . 2 -}}
{{- include "dti.containerSpec" (list $root "ray" $fields ((index . 3).resources | default dict)) }}
env:
  {{- include "dti.variables" (list
    (include "dti.rayEnv" (list $root (index . 4)))
    (include "dti.storeEnv" $root)
    (include "dti.hubEnv" $root)
    (ternary (include "dti.engineSecretEnv" $root) "" (eq $component "inference"))
    (include "dti.list" $fields.extraEnv)
  ) | nindent 2 }}
volumeMounts:
  {{- include "dti.rayMounts" $fields | nindent 2 }}
{{- end }}

{{/*
The mounts of Ray's container. KubeRay would mount a volume of its own on /tmp/ray beside an
autoscaler, and the supervisor would not find the session: so the folder is mounted here.
*/}}
{{- define "dti.rayMounts" -}}
- name: tmp
  mountPath: /tmp
- name: session
  mountPath: /tmp/ray
- name: shared-mem
  mountPath: /dev/shm
- name: models
  mountPath: /models
{{- with .extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The volumes of Ray's pods: (list $ $fields $pod $cacheless). */}}
{{- define "dti.rayVolumes" -}}
{{- $root := index . 0 -}}
- name: tmp
  emptyDir: {}
- name: session
  emptyDir: {}
- name: shared-mem
  emptyDir:
    medium: Memory
    sizeLimit: {{ (index . 2).sharedMemory | default "2Gi" }}
{{- if index . 3 }}
# The claim of one node is left to the node whose actors load weights.
- name: models
  emptyDir:
    sizeLimit: {{ $root.Values.modelCache.sizeLimit }}
{{- else }}
{{ include "dti.cacheVolume" $root }}
{{- end }}
{{- with (index . 1).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Whether the workers of a cluster run its models, and the head has no core and no GPU for them. */}}
{{- define "dti.headIsCacheless" -}}
{{- $size := include "dti.nodeSize" .head | fromJson -}}
{{- if and .workerGroups (eq ($size.cpus | float64) 0.0) (eq ($size.gpus | float64) 0.0) }}yes{{ end -}}
{{- end }}

{{/* The supervisor as a native sidecar of a head: (list $ $fields). */}}
{{- define "dti.supervisor" -}}
{{- $root := index . 0 -}}
{{- $fields := index . 1 -}}
{{- $supervisor := $root.Values.training.supervisor -}}
name: supervisor
restartPolicy: Always
{{ include "dti.containerSpec" (list $root "ray" $fields $supervisor.resources) }}
command: ["python", "-m", "services.supervisor"]
env:
  {{- include "dti.variables" (list
    (include "dti.supervisorEnv" $root)
    (include "dti.storeEnv" $root)
    (include "dti.settingsEnv" $root.Values.ledger)
    (include "dti.settingsEnv" $supervisor.settings)
    (include "dti.list" $fields.extraEnv)
  ) | nindent 2 }}
ports:
  - name: supervisor
    containerPort: 8002
# No startup probe: it would hold back Ray's container, which the supervisor waits for.
livenessProbe:
  httpGet:
    path: /healthz
    port: supervisor
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 30
volumeMounts:
  {{- include "dti.rayMounts" $fields | nindent 2 }}
  {{- include "dti.modelsMount" $root | nindent 2 }}
{{- end }}

{{/* Variables of Ray's container: (list $ $drainSeconds). */}}
{{- define "dti.rayEnv" -}}
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: {{ index . 1 | quote }}
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
- name: DTI_LOG_TO_CONTAINER
  value: "1"
{{- if (index . 0).Values.huggingFace.offline }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- end }}

{{/* Variables of the supervisor that follow from other values. */}}
{{- define "dti.supervisorEnv" -}}
- name: DTI_RAY_ADDRESS
  value: auto
- name: DTI_HEALTH_PORT
  value: "8002"
- name: DTI_MODELS
  value: /etc/dti/models.json
{{- if .Values.rayToken.enabled }}
# KubeRay gives the token to its own containers alone.
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "dti.raySecret" . }}
      key: auth_token
{{- end }}
{{- end }}
