{{- define "viaduct.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "viaduct.restricted" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Of a container that writes into the CNI folders. */}}
{{- define "viaduct.writer" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]{{ if .Values.dacOverride }}, add: [DAC_OVERRIDE]{{ end }}}
{{- end }}

{{- define "viaduct.labels" -}}
{app.kubernetes.io/name: {{ . }}, app.kubernetes.io/part-of: viaduct}
{{- end }}

{{/* What both pods' specs begin with. */}}
{{- define "viaduct.pod" -}}
hostNetwork: true
priorityClassName: system-node-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{operator: Exists}]
securityContext:
  seccompProfile: {type: RuntimeDefault}
  {{- with .Values.seLinuxType }}
  seLinuxOptions: {type: {{ . }}}
  {{- end }}
{{- end }}

{{- define "viaduct.probes" -}}
readinessProbe:
  httpGet: {host: 127.0.0.1, port: {{ . }}, path: /readyz}
  periodSeconds: 5
livenessProbe:
  httpGet: {host: 127.0.0.1, port: {{ . }}, path: /healthz}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 10
{{- end }}
