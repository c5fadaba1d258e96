{{/* Checks of names and of what the cluster must have. */}}
{{- define "dti.checkCluster" -}}
{{- $name := include "dti.fullname" . }}
{{- if and .Values.kuberay.required (not (.Capabilities.APIVersions.Has "ray.io/v1")) }}
- the cluster has no `ray.io/v1`: install the KubeRay operator (1.6 or newer) first. To render without a cluster, give `--api-versions ray.io/v1` or set kuberay.required to false.
{{- end }}
{{- if gt (len $name) 37 }}
- the full name {{ $name | quote }} has {{ len $name }} characters, and 37 are allowed, because KubeRay allows 47 for {{ $name }}-inference and 53 for {{ $name }}-training: set fullnameOverride to a shorter name.
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
- the full name {{ $name | quote }} is not allowed: KubeRay wants small letters, digits and dashes, with a letter first. Set fullnameOverride.
{{- end }}
{{- if and (include "dti.anyAutoscaling" .) (not .Values.serviceAccount.create) (not .Values.serviceAccount.headName) }}
- serviceAccount.create is false, and a head that scales needs an account: set serviceAccount.headName to one that exists, or set autoscaling.enabled of the cluster to false.
{{- end }}
{{- end }}

{{/* Checks of the store, the model cache and Redis. */}}
{{- define "dti.checkStore" -}}
{{- if not .Values.store }}
- store is empty: set it to the URL of the object store, as s3://BUCKET/PREFIX.
{{- else if not (regexMatch "^(s3://[^/]|file:///.|/.)" .Values.store) }}
- store is {{ .Values.store | quote }}: give s3://BUCKET/PREFIX, or file:///FOLDER for a volume that all pods mount (allPods.extraVolumes).
{{- end }}
{{- with .Values.modelCache }}
{{- if gt (len (compact (list .nodePath .existingClaim (ternary "claim" "" .claim.enabled)))) 1 }}
- modelCache.claim.enabled is {{ .claim.enabled }}, existingClaim {{ .existingClaim | quote }} and nodePath {{ .nodePath | quote }}: only one place can hold the weights. Give one of them.
{{- end }}
{{- if and .fetch.enabled (not .existingClaim) (not .claim.enabled) }}
- modelCache.fetch.enabled is true without a claim, so other pods would not see what is downloaded: set modelCache.claim.enabled or existingClaim, or fetch.enabled to false.
{{- end }}
{{- end }}
{{- if and .Values.redis.enabled (not (regexMatch "^[^:/]+:[0-9]+$" .Values.redis.address)) }}
- redis.address is {{ .Values.redis.address | quote }}: give HOST:PORT, or set redis.enabled to false.
{{- end }}
{{- end }}

{{/* Checks of the API. */}}
{{- define "dti.checkApi" -}}
{{- with .Values.api }}
{{- if and .ingress.enabled (not .ingress.host) }}
- api.ingress.enabled is true without a host: set api.ingress.host to the host name of the API.
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
- api.httpRoute.enabled is true without a Gateway: set api.httpRoute.parentRefs, as `- name: GATEWAY`.
{{- end }}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
- api.autoscaling.minReplicas is {{ .autoscaling.minReplicas }}, more than maxReplicas, which is {{ .autoscaling.maxReplicas }}: exchange them.
{{- end }}
{{- end }}
{{- end }}

{{/* Checks of a Ray cluster: (list $ "training"). */}}
{{- define "dti.checkRayCluster" -}}
{{- $component := index . 1 }}
{{- $cluster := index (index . 0).Values $component }}
{{- with $cluster.kueue }}
{{- if and .enabled (not .queueName) }}
- {{ $component }}.kueue.enabled is true without a queue: set {{ $component }}.kueue.queueName to a LocalQueue.
{{- end }}
{{- if and .enabled (not .elastic) (include "dti.scales" $) }}
- {{ $component }}.kueue.elastic is false and the cluster scales, which Kueue refuses: set elastic to true (and Kueue's gate ElasticJobsViaWorkloadSlices), or {{ $component }}.autoscaling.enabled to false.
{{- end }}
{{- end }}
{{- range $key := list "labels" "resources" "redis-password" "redis-username" "block" "address" }}
{{- range $name, $pod := merge (dict "head" $cluster.head) ($cluster.workerGroups | default dict) }}
{{- if hasKey ($pod.rayStartParams | default dict) $key }}
- rayStartParams.{{ $key }} of {{ $component }} {{ $name }} is not allowed: KubeRay sets it itself. Leave it out; labels go into `labels` of the group.
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $group := $cluster.workerGroups }}
{{- if eq $name "head" }}
- {{ $component }}.workerGroups.head: this name is that of the head in Kueue and in Ray's labels. Give another one.
{{- end }}
{{- $min := include "dti.minReplicas" $group | int }}
{{- $max := include "dti.maxReplicas" $group | int }}
{{- if gt $min $max }}
- {{ $component }}.workerGroups.{{ $name }}: minReplicas is {{ $min }}, more than maxReplicas, which is {{ $max }}: change one of them.
{{- end }}
{{- if and (hasKey $group "idleTimeoutSeconds") (not $cluster.autoscaling.enabled) }}
- {{ $component }}.workerGroups.{{ $name }}.idleTimeoutSeconds has no meaning while {{ $component }}.autoscaling.enabled is false: leave it out.
{{- end }}
{{- end }}
{{- end }}

{{/* Checks of a model's name and recipe: (list $ $name $model). */}}
{{- define "dti.checkModel" -}}
{{- $name := index . 1 }}
{{- $recipes := (include "dti.defaults" (index . 0) | fromJson).recipes }}
{{- $recipe := (index . 2).recipe }}
{{- if not (has $recipe $recipes) }}
- models.{{ $name }}.recipe is {{ $recipe | quote }}, and there are {{ join ", " $recipes }}: give one of them.
{{- end }}
{{- if or (hasPrefix "generate-" $name) (gt (len $name) 54) }}
- models.{{ $name }} cannot be a model's name: give one of at most 54 characters that does not begin with "generate-", with which pools of generation jobs begin.
{{- end }}
{{- end }}

{{/* Checks of labels and annotations that the chart sets itself: a key that stands twice makes the YAML invalid. */}}
{{- define "dti.checkLabels" -}}
{{- $own := list "name" "instance" "component" }}
{{- $given := dict "allPods.podLabels" .Values.allPods.podLabels "api.podLabels" .Values.api.podLabels "dispatcher.podLabels" .Values.dispatcher.podLabels }}
{{- range $component := list "inference" "training" }}
{{- $cluster := index $.Values $component }}
{{- $_ := set $given (printf "%s.head.podLabels" $component) $cluster.head.podLabels }}
{{- range $name, $group := $cluster.workerGroups }}
{{- $_ := set $given (printf "%s.workerGroups.%s.podLabels" $component $name) $group.podLabels }}
{{- end }}
{{- end }}
{{- range $path, $labels := $given }}
{{- range $key := $own }}
{{- if hasKey ($labels | default dict) (printf "app.kubernetes.io/%s" $key) }}
- {{ $path }} has app.kubernetes.io/{{ $key }}, which the chart sets itself: leave it out, or set nameOverride to change app.kubernetes.io/name.
{{- end }}
{{- end }}
{{- end }}
{{- $given = dict "commonLabels" .Values.commonLabels }}
{{- range $name := list "podMonitor" "serviceMonitor" "rules" "dashboards" }}
{{- $_ := set $given (printf "monitoring.%s.labels" $name) (index $.Values.monitoring $name).labels }}
{{- end }}
{{- range $path, $labels := $given }}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- if hasKey ($labels | default dict) $key }}
- {{ $path }} has {{ $key }}, which the chart sets itself: leave it out, or set nameOverride to change app.kubernetes.io/name.
{{- end }}
{{- end }}
{{- end }}
{{- range $path, $annotations := dict "allPods.podAnnotations" .Values.allPods.podAnnotations "api.podAnnotations" .Values.api.podAnnotations "dispatcher.podAnnotations" .Values.dispatcher.podAnnotations }}
{{- if hasKey ($annotations | default dict) "checksum/models" }}
- {{ $path }} has checksum/models, which the chart sets itself: leave it out, or give it another name.
{{- end }}
{{- end }}
{{- end }}

{{/* Checks of the whole: what is left without models or clusters. */}}
{{- define "dti.checkWhole" -}}
{{- if not .Values.models }}
- models is empty: name at least one model.
{{- end }}
{{- if and .Values.training.enabled .Values.training.sharedCluster (not .Values.inference.enabled) }}
- training.sharedCluster is true and inference.enabled is false, so there is no cluster to share: set inference.enabled to true or sharedCluster to false.
{{- end }}
{{- if and .Values.training.enabled .Values.training.sharedCluster }}
{{- if .Values.training.workerGroups }}
- training.sharedCluster is true, so training.workerGroups ({{ keys .Values.training.workerGroups | sortAlpha | join ", " }}) would make no pods: put them under inference.workerGroups, or set sharedCluster to false.
{{- end }}
{{- if .Values.training.kueue.enabled }}
- training.sharedCluster is true, so training.kueue would queue nothing: put it under inference.kueue, or set sharedCluster to false.
{{- end }}
{{- end }}
{{- end }}
