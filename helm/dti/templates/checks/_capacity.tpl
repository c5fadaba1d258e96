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
How many actors a cluster can hold at most: (list $ "training" $gpus $cpus $labels). The head counts
as a node without labels.
*/}}
{{- define "dti.capacity" -}}
{{- $root := index . 0 -}}
{{- $cluster := index $root.Values (index . 1) -}}
{{- $selector := index . 4 | default dict -}}
{{- $total := 0 -}}
{{- if not $selector -}}
{{- $total = include "dti.fitsOnNode" (list (include "dti.nodeSize" $cluster.head | fromJson) (index . 2) (index . 3)) | int -}}
{{- end -}}
{{- range $name, $group := $cluster.workerGroups -}}
{{- if include "dti.selects" (list $selector (include "dti.groupLabels" $group | fromYaml)) -}}
{{- $fits := include "dti.fitsOnNode" (list (include "dti.nodeSize" $group | fromJson) (index $ 2) (index $ 3)) | int -}}
{{- $total = add $total (mul $fits (include "dti.maxReplicas" $group | int)) -}}
{{- end -}}
{{- end -}}
{{- min $total 1000000 -}}
{{- end }}

{{/* The nodes of a cluster in words: (list $ "training"). */}}
{{- define "dti.nodesInWords" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- $size := include "dti.nodeSize" $cluster.head | fromJson -}}
{{- $nodes := list (printf "the head (cpus: %v, gpus: %v)" $size.cpus $size.gpus) -}}
{{- range $name, $group := $cluster.workerGroups -}}
{{- $size := include "dti.nodeSize" $group | fromJson -}}
{{- $labels := include "dti.groupLabels" $group | fromYaml -}}
{{- $nodes = append $nodes (printf "%s (cpus: %v, gpus: %v, labels: %s, maxReplicas: %s)" $name $size.cpus $size.gpus (toJson $labels) (include "dti.maxReplicas" $group)) -}}
{{- end -}}
{{- join ", " $nodes -}}
{{- end }}

{{/*
Whether a cluster can hold the actors of a model, and if not, why:
(dict "root" $ "cluster" "training" "model" $name "key" "models.x.max_workers" "count" 8 "gpus" 1
"cpus" 1 "labels" $labels "actor" "worker").
*/}}
{{- define "dti.checkCapacity" -}}
{{- $capacity := include "dti.capacity" (list .root .cluster .gpus .cpus .labels) | int -}}
{{- $needs := printf "gpus: %v, cpus: %v" .gpus .cpus -}}
{{- if .labels }}{{ $needs = printf "%s, labels: %s" $needs (toJson .labels) }}{{ end -}}
{{- if and (not $capacity) .count -}}
- models.{{ .model }}: one {{ .actor }} needs ({{ $needs }}), which no node of `{{ .cluster }}` has: there are {{ include "dti.nodesInWords" (list .root .cluster) }}. Add a group to {{ .cluster }}.workerGroups, or change the model's gpus, cpus or labels.
{{- else if gt (int .count) $capacity -}}
- {{ .key }} is {{ .count }}{{ .given | ternary "" " (the default)" }}, and the nodes of `{{ .cluster }}` hold at most {{ $capacity }} such {{ .actor }}s ({{ $needs }}): raise maxReplicas of a group in {{ .cluster }}.workerGroups, or set {{ .key }} to {{ $capacity }} or less.
{{- end -}}
{{- end }}

{{/* The checks of a model's workers and engines: (list $ $name $model). */}}
{{- define "dti.checkModelFits" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $model := index . 2 -}}
{{- $defaults := include "dti.defaults" $root | fromJson -}}
{{- $generation := $model.generation | default dict -}}
{{- $gpus := kindIs "invalid" $model.gpus | ternary $defaults.model.gpus $model.gpus -}}
{{- $cpus := kindIs "invalid" $model.cpus | ternary $defaults.model.cpus $model.cpus -}}
{{- if $root.Values.training.enabled }}
{{- $cluster := ternary "inference" "training" $root.Values.training.sharedCluster }}
{{- range $limit := list "max_workers" "min_workers" }}
{{- $given := hasKey $model $limit }}
{{ include "dti.checkCapacity" (dict "root" $root "cluster" $cluster "model" $name "key" (printf "models.%s.%s" $name $limit) "count" ($given | ternary (index $model $limit) (index $defaults.model $limit)) "given" $given "gpus" $gpus "cpus" $cpus "labels" $model.labels "actor" "worker") }}
{{- end }}
{{- end }}
{{- if $root.Values.inference.enabled }}
{{- $engineGpus := kindIs "invalid" $generation.gpus | ternary $gpus $generation.gpus }}
{{- $engineCpus := kindIs "invalid" $generation.cpus | ternary (ternary 0 $cpus (eq (float64 $engineGpus) 0.0)) $generation.cpus }}
{{- range $limit := list "max_engines" "min_engines" }}
{{- $given := hasKey $generation $limit }}
{{ include "dti.checkCapacity" (dict "root" $root "cluster" "inference" "model" $name "key" (printf "models.%s.generation.%s" $name $limit) "count" ($given | ternary (index $generation $limit) (index $defaults.generation $limit)) "given" $given "gpus" $engineGpus "cpus" $engineCpus "labels" (kindIs "invalid" $generation.labels | ternary $model.labels $generation.labels) "actor" "engine") }}
{{- end }}
{{- if and (hasKey $generation "min_engines") (eq (int $generation.min_engines) 0) (not $root.Values.inference.serveFromHead) }}
- models.{{ $name }}.generation.min_engines is 0 and inference.serveFromHead is false: without an engine, only the head takes requests, so no request would ever start one. Set min_engines to 1 or more, or serveFromHead to true.
{{- end }}
{{- end }}
{{- end }}
