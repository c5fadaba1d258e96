{{/* Whether a cluster is made: (list $ "training"). */}}
{{- define "dti.hasCluster" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- if and $cluster.enabled (not (and (eq (index . 1) "training") $cluster.sharedCluster)) }}yes{{ end -}}
{{- end }}

{{/* Whether the pods of a cluster change in number: (list $ "training"). */}}
{{- define "dti.scales" -}}
{{- $cluster := index (index . 0).Values (index . 1) -}}
{{- if and (include "dti.hasCluster" .) $cluster.autoscaling.enabled $cluster.workerGroups }}yes{{ end -}}
{{- end }}

{{/* Whether the head of any cluster scales it. */}}
{{- define "dti.anyAutoscaling" -}}
{{- if or (include "dti.scales" (list . "inference")) (include "dti.scales" (list . "training")) }}yes{{ end -}}
{{- end }}

{{/* Whether the supervisor runs beside the head of a cluster: (list $ "training"). */}}
{{- define "dti.supervised" -}}
{{- $training := (index . 0).Values.training -}}
{{- if and $training.enabled (eq (index . 1) (ternary "inference" "training" $training.sharedCluster)) }}yes{{ end -}}
{{- end }}

{{/* The seconds in which the workers of a cluster end: (list $ "training"). */}}
{{- define "dti.clusterDrainSeconds" -}}
{{- if eq (index . 1) "inference" -}}
{{- include "dti.drainSeconds" (index . 0) -}}
{{- else -}}
{{- (index . 0).Values.training.drainSeconds -}}
{{- end -}}
{{- end }}
