# The builder only writes the sources. It would also run `go mod tidy`, which wants the modules of
# its parts' tests, and not every module proxy has those.
set -euo pipefail
command -v go || { echo "go is not installed"; exit 1; }
export CGO_ENABLED=0
go run go.opentelemetry.io/collector/cmd/builder@v0.155.0 \
    --config builder.yaml --skip-get-modules --skip-compilation
go build -mod=mod -buildvcs=false -trimpath -ldflags '-s -w' -o out/otelcol .
