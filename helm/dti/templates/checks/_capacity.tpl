{{/* A number of cores as Ray counts it: an amount of Kubernetes, rounded up. */}}
{{- define "dti.cores" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}
{{- divf (trimSuffix "m" $text | float64) 1000 | ceil -}}
{{- else -}}
{{- $text | float64 | ceil -}}
{{- end -}}
{{- end }}

{{/* What Ray can give to actors on a node, as KubeRay tells it: JSON with cpus and gpus. */}}
{{- define "dti.nodeSize" -}}
{{- $start := .rayStartParams | default dict -}}
{{- $limits := (.resources | default dict).limits | default dict -}}
{{- $requests := (.resources | default dict).requests | default dict -}}
{{- $gpus := "0" -}}
{{- range $key := keys $limits | sortAlpha | reverse -}}
{{- if or (hasSuffix "gpu" $key) (regexMatch "^nvidia\\.com/mig-[0-9]+g\\.[0-9]+gb$" $key) -}}
{{- $gpus = index $limits $key | toString -}}
{{- end -}}
{{- end -}}
{{- /* Without any amount of cores, Ray takes all that the host has. */ -}}
{{- $cpus := $limits.cpu | default $requests.cpu | default 1000000 | include "dti.cores" -}}
{{- if hasKey . "cpus" }}{{ $cpus = toString .cpus }}{{ end -}}
{{- dict "cpus" (index $start "num-cpus" | default $cpus) "gpus" (index $start "num-gpus" | default $gpus) | toJson -}}
{{- end }}

{{/* How many actors fit on a node: (list $size $gpus $cpus). */}}
{{- define "dti.fitsOnNode" -}}
{{- $size := index . 0 -}}
{{- $fits := 1000000 -}}
{{- $gpus := index . 1 | float64 -}}
{{- $cpus := index . 2 | float64 -}}
{{- if gt $gpus 0.0 -}}
{{- if lt $gpus 1.0 -}}
{{- /* An actor's share of a GPU is a share of one GPU. */ -}}
{{- $fits = min $fits (mulf ($size.gpus | float64) (divf 1.0 $gpus | floor) | int) -}}
{{- else -}}
{{- $fits = min $fits (divf ($size.gpus | float64) $gpus | floor | int) -}}
{{- end -}}
{{- end -}}
{{- if gt $cpus 0.0 }}{{ $fits = min $fits (divf ($size.cpus | float64) $cpus | floor | int) }}{{ end -}}
{{- $fits -}}
{{- end }}

{{/* Whether a node with these labels is selected: (list $selector $labels). */}}
{{- define "dti.selects" -}}
{{- $labels := index . 1 -}}
{{- $all := true -}}
{{- range $key, $expression := index . 0 -}}
{{- $wanted := not (hasPrefix "!" $expression) -}}
{{- $values := trimPrefix "!" $expression -}}
{{- if hasPrefix "in(" $values }}{{ $values = trimPrefix "in(" $values | trimSuffix ")" }}{{ end -}}
{{- $found := has (index $labels $key | default "") (splitList "," (nospace $values)) -}}
{{- if ne $found $wanted }}{{ $all = false }}{{ end -}}
{{- end -}}
{{- if $all }}yes{{ end -}}
{{- end }}

{{/*
The nodes of a cluster that can run an actor, and how many of it each group holds at most: JSON by name
of group or `head`: (list $ "training" $needs). The head counts as a node without labels. It runs no
engine if it is out of the Serve service, because nobody could reach it.
*/}}
{{- define "dti.nodesFor" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- $needs := index . 2 -}}
{{- $nodes := dict -}}
{{- $headless := and (eq $needs.actor "engine") (not $cluster.serveFromHead) -}}
{{- if not (or $needs.labels $headless) -}}
{{- $_ := set $nodes "head" (include "dti.fitsOnNode" (list (include "dti.nodeSize" $cluster.head | fromJson) $needs.gpus $needs.cpus) | int) -}}
{{- end -}}
{{- range $name, $group := $cluster.workerGroups -}}
{{- if include "dti.selects" (list ($needs.labels | default dict) (include "dti.groupLabels" $group | fromYaml)) -}}
{{- $fits := include "dti.fitsOnNode" (list (include "dti.nodeSize" $group | fromJson) $needs.gpus $needs.cpus) | int -}}
{{- $_ := set $nodes $name (mul $fits (include "dti.maxReplicas" $group | int)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $fits := $nodes }}{{ if not $fits }}{{ $_ := unset $nodes $name }}{{ end }}{{ end -}}
{{- toJson $nodes -}}
{{- end }}

{{/* The nodes of a cluster in words: (list $ "training" $needs). */}}
{{- define "dti.nodesInWords" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- $nodes := list -}}
{{- if or (ne (index . 2).actor "engine") $cluster.serveFromHead -}}
{{- $size := include "dti.nodeSize" $cluster.head | fromJson -}}
{{- $nodes = append $nodes (printf "the head (cpus: %v, gpus: %v)" $size.cpus $size.gpus) -}}
{{- end -}}
{{- range $name, $group := $cluster.workerGroups -}}
{{- $size := include "dti.nodeSize" $group | fromJson -}}
{{- $labels := include "dti.groupLabels" $group | fromYaml -}}
{{- $nodes = append $nodes (printf "%s (cpus: %v, gpus: %v, labels: %s, maxReplicas: %s)" $name $size.cpus $size.gpus (toJson $labels) (include "dti.maxReplicas" $group)) -}}
{{- end -}}
{{- $nodes | join ", " | default "none, as inference.serveFromHead is false and there is no group" -}}
{{- end }}

{{/*
What an actor of a model needs, and how many of it are allowed: (list $ $name $model "worker"). JSON
with gpus, cpus, labels, and with min and max as key, count and whether it is given.
*/}}
{{- define "dti.actorNeeds" -}}
{{- $defaults := include "dti.defaults" (index . 0) | fromJson -}}
{{- $name := index . 1 -}}
{{- $model := index . 2 -}}
{{- $generation := $model.generation | default dict -}}
{{- $gpus := kindIs "invalid" $model.gpus | ternary $defaults.model.gpus $model.gpus -}}
{{- $cpus := kindIs "invalid" $model.cpus | ternary $defaults.model.cpus $model.cpus -}}
{{- $labels := $model.labels -}}
{{- $from := $model -}}
{{- $path := printf "models.%s" $name -}}
{{- $standard := $defaults.model -}}
{{- if eq (index . 3) "engine" -}}
{{- $gpus = kindIs "invalid" $generation.gpus | ternary $gpus $generation.gpus -}}
{{- $cpus = kindIs "invalid" $generation.cpus | ternary (ternary 0 $cpus (eq (float64 $gpus) 0.0)) $generation.cpus -}}
{{- $labels = kindIs "invalid" $generation.labels | ternary $model.labels $generation.labels -}}
{{- $from = $generation -}}
{{- $path = printf "%s.generation" $path -}}
{{- $standard = $defaults.generation -}}
{{- end -}}
{{- $needs := dict "model" $name "actor" (index . 3) "gpus" $gpus "cpus" $cpus "labels" ($labels | default dict) -}}
{{- range $limit := list "min" "max" -}}
{{- $key := printf "%s_%ss" $limit $needs.actor -}}
{{- $given := hasKey $from $key -}}
{{- $_ := set $needs $limit (dict "key" (printf "%s.%s" $path $key) "given" $given "count" ($given | ternary (index $from $key) (index $standard $key))) -}}
{{- end -}}
{{- toJson $needs -}}
{{- end }}

{{/* What an actor needs, in words. */}}
{{- define "dti.needsInWords" -}}
{{- printf "gpus: %v, cpus: %v" .gpus .cpus -}}
{{- if .labels }}{{ printf ", labels: %s" (toJson .labels) }}{{ end -}}
{{- end }}

{{/* Whether a cluster can hold the actors of a model, and if not, why: (list $ "training" $needs "max"). */}}
{{- define "dti.checkCapacity" -}}
{{- $root := index . 0 -}}
{{- $cluster := index . 1 -}}
{{- $needs := index . 2 -}}
{{- $limit := index $needs (index . 3) -}}
{{- $capacity := 0 -}}
{{- range include "dti.nodesFor" (list $root $cluster $needs) | fromJson }}{{ $capacity = add $capacity (int .) }}{{ end -}}
{{- $capacity = min $capacity 1000000 -}}
{{- if and (not $capacity) $limit.count -}}
- models.{{ $needs.model }}: one {{ $needs.actor }} needs ({{ include "dti.needsInWords" $needs }}), which no node of `{{ $cluster }}` has: there are {{ include "dti.nodesInWords" (list $root $cluster $needs) }}. Add a group to {{ $cluster }}.workerGroups, or change the model's gpus, cpus or labels.
{{- else if gt (int $limit.count) $capacity -}}
- {{ $limit.key }} is {{ $limit.count }}{{ $limit.given | ternary "" " (the default)" }}, and the nodes of `{{ $cluster }}` hold at most {{ $capacity }} such {{ $needs.actor }}s ({{ include "dti.needsInWords" $needs }}): raise maxReplicas of a group in {{ $cluster }}.workerGroups, or set {{ $limit.key }} to {{ $capacity }} or less.
{{- end -}}
{{- end }}

{{/* The cluster in which models are trained. */}}
{{- define "dti.trainingCluster" -}}
{{- ternary "inference" "training" .Values.training.sharedCluster -}}
{{- end }}

{{/* The checks of a model's workers and engines: (list $ $name $model). */}}
{{- define "dti.checkModelFits" -}}
{{- $root := index . 0 -}}
{{- $actors := dict -}}
{{- if $root.Values.training.enabled }}{{ $_ := set $actors "worker" (include "dti.trainingCluster" $root) }}{{ end -}}
{{- if $root.Values.inference.enabled }}{{ $_ := set $actors "engine" "inference" }}{{ end -}}
{{- range $actor, $cluster := $actors }}
{{- $needs := include "dti.actorNeeds" (append $ $actor) | fromJson }}
{{- range $limit := list "max" "min" }}
{{ include "dti.checkCapacity" (list $root $cluster $needs $limit) }}
{{- end }}
{{- if and (eq $actor "engine") (eq (int $needs.min.count) 0) (not $root.Values.inference.serveFromHead) }}
- {{ $needs.min.key }} is 0 and inference.serveFromHead is false: without an engine, only the head takes requests, so no request would ever start one. Set min_engines to 1 or more, or serveFromHead to true.
{{- end }}
{{- end }}
{{- end }}
