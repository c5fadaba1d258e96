{{/*
The Serve config: one application for each model. `python -m services.inference config` prints the
same. Limits stand in autoscaling_config alone: a change there starts no engine anew.
*/}}
{{- define "dti.serveConfig" -}}
{{- $root := . -}}
{{- $defaults := include "dti.defaults" . | fromJson -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
{{- range $name, $model := .Values.models }}
{{- $generation := $model.generation | default dict }}
{{- $min := hasKey $generation "min_engines" | ternary $generation.min_engines $defaults.generation.min_engines | int }}
{{- $max := hasKey $generation "max_engines" | ternary $generation.max_engines $defaults.generation.max_engines | int }}
{{- $used := dict }}
{{- range $field := $defaults.engine_fields }}
{{- if not (kindIs "invalid" (index $model $field)) }}{{ $_ := set $used $field (index $model $field) }}{{ end }}
{{- end }}
{{- $engine := dict }}
{{- range $field := $defaults.generation_fields }}
{{- if not (kindIs "invalid" (index $generation $field)) }}{{ $_ := set $engine $field (index $generation $field) }}{{ end }}
{{- end }}
{{- $_ := unset $used "generation" }}
{{- if $engine }}{{ $_ := set $used "generation" $engine }}{{ end }}
  - name: {{ $name | quote }}
    route_prefix: /engines/{{ $name }}
    import_path: services.inference.ray_serve:build
    args:
      store: {{ $root.Values.store | quote }}
      name: {{ $name | quote }}
      model:
        {{- toYaml $used | nindent 8 }}
    deployments:
      - name: engine
        graceful_shutdown_timeout_s: {{ include "dti.drainSeconds" $root }}
        autoscaling_config:
          min_replicas: {{ $min }}
          max_replicas: {{ max $min $max }}
          target_ongoing_requests: {{ $generation.batch_size | default $defaults.batch_size }}
          upscale_delay_s: 10
          downscale_delay_s: 300
{{- end }}
{{- end }}
