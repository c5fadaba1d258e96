{{/* The spec of a RayCluster: (list $ "training"). */}}
{{- define "dti.rayCluster" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $cluster := index $root.Values $component -}}
{{- $scales := include "dti.scales" . -}}
rayVersion: {{ $root.Values.rayVersion | quote }}
{{- if $root.Values.rayToken.enabled }}
authOptions:
  mode: token
  secretName: {{ include "dti.raySecret" $root }}
{{- end }}
{{- if $root.Values.redis.enabled }}
gcsFaultToleranceOptions:
  redisAddress: {{ $root.Values.redis.address }}
  {{- if $root.Values.redis.existingSecret }}
  redisPassword:
    valueFrom:
      secretKeyRef:
        name: {{ $root.Values.redis.existingSecret }}
        key: {{ $root.Values.redis.key }}
  {{- end }}
{{- end }}
{{- if $scales }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $cluster.autoscaling.idleTimeoutSeconds }}
  imagePullPolicy: {{ $root.Values.image.ray.pullPolicy }}
  {{- include "dti.resources" $cluster.autoscaling.resources | nindent 2 }}
  {{- with (include "dti.podFields" (list $root $cluster.head) | fromYaml).securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  # The same /tmp as the head's container, in which Ray's session is.
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    - name: session
      mountPath: /tmp/ray
{{- end }}
headGroupSpec:
  {{- include "dti.headGroup" . | nindent 2 }}
{{- with $cluster.workerGroups }}
workerGroupSpecs:
  {{- range $name, $group := . }}
  - {{ include "dti.workerGroup" (list $root $component $name $group) | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The head of a cluster: (list $ "training"). */}}
{{- define "dti.headGroup" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $cluster := index $root.Values $component -}}
{{- $head := $cluster.head -}}
{{- $scales := include "dti.scales" . -}}
{{- $fields := include "dti.podFields" (list $root $head) | fromYaml -}}
{{- $start := dict "num-cpus" ($head.cpus | toString) -}}
rayStartParams:
  {{- include "dti.startParameters" (list $head $start) | nindent 2 }}
template:
  {{- include "dti.rayMetadata" (list $root $component $fields) | nindent 2 }}
  spec:
    {{- if $scales }}
    # The autoscaler in this pod reads and changes the cluster.
    serviceAccountName: {{ include "dti.headServiceAccount" $root }}
    automountServiceAccountToken: true
    restartPolicy: Never
    {{- else }}
    serviceAccountName: {{ include "dti.serviceAccount" $root }}
    automountServiceAccountToken: false
    {{- end }}
    # A head never becomes idle, so it always takes its 10 seconds to drain.
    terminationGracePeriodSeconds: 40
    {{- include "dti.podSpec" (list $root $fields) | nindent 4 }}
    {{- with include "dti.schedulingGates" (list $root $component) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if include "dti.supervised" . }}
    # The supervisor finds Ray's node among the processes of the pod.
    shareProcessNamespace: true
    initContainers:
      - {{ include "dti.supervisor" (list $root $fields) | nindent 8 | trim }}
    {{- end }}
    containers:
      - name: ray-head
        {{- include "dti.rayContainer" (list $root $component $fields $head 10) | nindent 8 }}
        ports:
          - name: gcs-server
            containerPort: 6379
          - name: dashboard
            containerPort: 8265
          - name: metrics
            containerPort: 8080
          {{- if eq $component "inference" }}
          - name: serve
            containerPort: 8000
          {{- end }}
    volumes:
      {{- include "dti.rayVolumes" (list $root $fields $head (include "dti.headIsCacheless" $cluster)) | nindent 6 }}
      {{- if include "dti.supervised" . }}
      {{- include "dti.modelsVolume" $root | nindent 6 }}
      {{- end }}
{{- end }}

{{/* A group of workers: (list $ "training" $name $group). */}}
{{- define "dti.workerGroup" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $group := index . 3 -}}
{{- $scales := include "dti.scales" (list $root $component) -}}
{{- $fields := include "dti.podFields" (list $root $group) | fromYaml -}}
{{- $drain := include "dti.groupDrainSeconds" (list $root $component $group) | int -}}
groupName: {{ index . 2 }}
minReplicas: {{ include "dti.minReplicas" $group }}
maxReplicas: {{ include "dti.maxReplicas" $group }}
{{- if not $scales }}
replicas: {{ include "dti.maxReplicas" $group }}
{{- else if hasKey $group "idleTimeoutSeconds" }}
idleTimeoutSeconds: {{ $group.idleTimeoutSeconds }}
{{- end }}
{{- with include "dti.groupLabels" $group | fromYaml }}
labels:
  {{- toYaml . | nindent 2 }}
{{- end }}
rayStartParams:
  {{- include "dti.startParameters" (list $group dict) | nindent 2 }}
template:
  {{- include "dti.rayMetadata" (list $root $component $fields) | nindent 2 }}
  spec:
    serviceAccountName: {{ include "dti.serviceAccount" $root }}
    automountServiceAccountToken: false
    {{- if $scales }}
    restartPolicy: Never
    {{- end }}
    # Longer than the drain, or Kubernetes kills what has not ended yet.
    terminationGracePeriodSeconds: {{ add $drain (ternary 5 30 ($group.spot | default false)) }}
    {{- include "dti.podSpec" (list $root $fields) | nindent 4 }}
    {{- with include "dti.schedulingGates" (list $root $component) }}
    {{- . | nindent 4 }}
    {{- end }}
    containers:
      - name: ray-worker
        {{- include "dti.rayContainer" (list $root $component $fields $group $drain) | nindent 8 }}
        ports:
          - name: metrics
            containerPort: 8080
          {{- if eq $component "inference" }}
          - name: serve
            containerPort: 8000
          {{- end }}
    volumes:
      {{- include "dti.rayVolumes" (list $root $fields $group "") | nindent 6 }}
{{- end }}

{{/*
The parameters of `ray start`: (list $pod $defaults). Without GPUs among its limits, a container still
sees those of its node, and Ray would offer them.
*/}}
{{- define "dti.startParameters" -}}
{{- $pod := index . 0 -}}
{{- $start := deepCopy (index . 1) -}}
{{- if not (include "dti.hasGpus" $pod) }}{{ $_ := set $start "num-gpus" "0" }}{{ end -}}
{{- mergeOverwrite $start ($pod.rayStartParams | default dict) | toYaml -}}
{{- end }}

{{/* Whether Ray counts GPUs of a pod. */}}
{{- define "dti.hasGpus" -}}
{{- if ne ((include "dti.nodeSize" . | fromJson).gpus | float64) 0.0 }}yes{{ end -}}
{{- end }}

{{- define "dti.minReplicas" -}}
{{- .minReplicas | default 0 -}}
{{- end }}
{{- define "dti.maxReplicas" -}}
{{- .maxReplicas | default 1 -}}
{{- end }}

{{/* The seconds in which a worker of a group ends: (list $ "training" $group). */}}
{{- define "dti.groupDrainSeconds" -}}
{{- $group := index . 2 -}}
{{- if $group.spot -}}
{{- $group.spotDrainSeconds | default 10 -}}
{{- else -}}
{{- include "dti.clusterDrainSeconds" . -}}
{{- end -}}
{{- end }}

{{/* Ray's labels of the nodes of a group. */}}
{{- define "dti.groupLabels" -}}
{{- $labels := deepCopy (.labels | default dict) -}}
{{- if .spot }}{{ $_ := set $labels "ray.io/market-type" "spot" }}{{ end -}}
{{- toYaml $labels -}}
{{- end }}

{{/* Kueue's gates, by which it lets the pods of an elastic cluster start one by one. */}}
{{- define "dti.schedulingGates" -}}
{{- $kueue := (index (index . 0).Values (index . 1)).kueue -}}
{{- if and $kueue.enabled $kueue.elastic -}}
schedulingGates:
  - name: kueue.x-k8s.io/elastic-job
{{- end -}}
{{- end }}

{{/* Labels and annotations of a cluster: (list $ "training"). */}}
{{- define "dti.clusterMetadata" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- $annotations := deepCopy $cluster.annotations -}}
{{- if and $cluster.kueue.enabled $cluster.kueue.elastic -}}
{{- $_ := set $annotations "kueue.x-k8s.io/elastic-job" "true" -}}
{{- end -}}
{{- include "dti.metadata" (list (index . 0) (index . 1) $annotations (ternary (dict "kueue.x-k8s.io/queue-name" $cluster.kueue.queueName) dict $cluster.kueue.enabled)) -}}
{{- end }}
