{{/* The actors that always run in a cluster, as JSON: (list $ "inference"). */}}
{{- define "dti.permanentActors" -}}
{{- $root := index . 0 -}}
{{- $cluster := index . 1 -}}
{{- $kinds := list -}}
{{- if and $root.Values.inference.enabled (eq $cluster "inference") }}{{ $kinds = append $kinds "engine" }}{{ end -}}
{{- if and $root.Values.training.enabled (eq $cluster (include "dti.trainingCluster" $root)) }}{{ $kinds = append $kinds "worker" }}{{ end -}}
{{- $actors := list -}}
{{- range $name, $model := $root.Values.models -}}
{{- range $kind := $kinds -}}
{{- $needs := include "dti.actorNeeds" (list $root $name $model $kind) | fromJson -}}
{{- if $needs.min.count }}{{ $actors = append $actors (set $needs "count" $needs.min.count) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $actors -}}
{{- end }}

{{/* The GPUs and cores of nodes, as JSON: (list $ "inference" $names). */}}
{{- define "dti.sizeOfNodes" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- $sum := dict "gpus" 0.0 "cpus" 0.0 -}}
{{- range $name := index . 2 -}}
{{- $pod := eq $name "head" | ternary $cluster.head (index $cluster.workerGroups $name) -}}
{{- $number := eq $name "head" | ternary 1 (include "dti.maxReplicas" ($pod | default dict)) -}}
{{- $size := include "dti.nodeSize" $pod | fromJson -}}
{{- range $key := list "gpus" "cpus" -}}
{{- $_ := set $sum $key (addf (index $sum $key) (mulf $number (index $size $key))) -}}
{{- end -}}
{{- end -}}
{{- toJson $sum -}}
{{- end }}

{{/*
Why actors do not fit at once on the nodes that they may use, or nothing: (list $ "inference" $actors).
It compares sums of GPUs and cores. So it refuses only what cannot work, and misses some actors that
fit in sum and on no node.
*/}}
{{- define "dti.whyNotTogether" -}}
{{- $root := index . 0 -}}
{{- $cluster := index . 1 -}}
{{- $sets := dict -}}
{{- $actors := list -}}
{{- range index . 2 -}}
{{- $nodes := include "dti.nodesFor" (list $root $cluster .) | fromJson | keys | sortAlpha -}}
{{- /* An actor that fits nowhere has a message of its own. */ -}}
{{- if $nodes }}{{ $actors = append $actors (set . "nodes" $nodes) }}{{ $_ := set $sets (join ", " $nodes) $nodes }}{{ end -}}
{{- end -}}
{{- $reasons := list -}}
{{- range $names, $nodes := $sets -}}
{{- $needed := dict "gpus" 0.0 "cpus" 0.0 -}}
{{- $words := list -}}
{{- range $actor := $actors -}}
{{- $elsewhere := false -}}
{{- range $actor.nodes }}{{ if not (has . $nodes) }}{{ $elsewhere = true }}{{ end }}{{ end -}}
{{- if not $elsewhere -}}
{{- range $key := list "gpus" "cpus" }}{{ $_ := set $needed $key (addf (index $needed $key) (mulf $actor.count (index $actor $key))) }}{{ end -}}
{{- $words = append $words (printf "%v %s of %s (%s)" $actor.count (eq (int $actor.count) 1 | ternary $actor.actor (printf "%ss" $actor.actor)) $actor.model (include "dti.needsInWords" $actor)) -}}
{{- end -}}
{{- end -}}
{{- $size := include "dti.sizeOfNodes" (list $root $cluster $nodes) | fromJson -}}
{{- /* The limits of a single model are checked by themselves. */ -}}
{{- if gt (len $words) 1 -}}
{{- range $key, $unit := dict "gpus" "GPUs" "cpus" "cores" -}}
{{- if gt (index $needed $key) (index $size $key) -}}
{{- $reasons = append $reasons (printf "%s need %v %s, and the nodes of `%s` that can run them (%s) have %v" (join ", " $words) (index $needed $key) $unit $cluster $names (index $size $key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- join "; " $reasons -}}
{{- end }}

{{/* The checks of all actors that run at the same time. */}}
{{- define "dti.checkTogether" -}}
{{- range $cluster := list "inference" "training" }}
{{- $permanent := include "dti.permanentActors" (list $ $cluster) | fromJsonArray }}
{{- $way := printf "Raise maxReplicas of a group in %s.workerGroups, or lower min_engines or min_workers." $cluster }}
{{- $reason := include "dti.whyNotTogether" (list $ $cluster $permanent) }}
{{- if $reason }}
- what always runs (min_engines, min_workers) does not fit at once: {{ $reason }}. {{ $way }}
{{- else if and $.Values.training.enabled $.Values.training.sharedCluster (eq $cluster "inference") }}
{{- $engines := list }}
{{- range $permanent }}{{ if eq .actor "engine" }}{{ $engines = append $engines . }}{{ end }}{{ end }}
{{- range $name, $model := $.Values.models }}
{{- $worker := include "dti.actorNeeds" (list $ $name $model "worker") | fromJson }}
{{- if $worker.max.count }}
{{- with include "dti.whyNotTogether" (list $ $cluster (append $engines (set $worker "count" 1))) }}
- models.{{ $name }}: the engines that always run leave no room for a worker: {{ . }}. {{ $way }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
