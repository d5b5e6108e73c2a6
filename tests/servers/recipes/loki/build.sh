set -euo pipefail
command -v go || { echo "go is not installed"; exit 1; }
export CGO_ENABLED=0
go build -mod=mod -buildvcs=false -trimpath -ldflags '-s -w' -o out/loki github.com/grafana/loki/v3/cmd/loki
