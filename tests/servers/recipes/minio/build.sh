set -euo pipefail
command -v go || { echo "go is not installed"; exit 1; }
export CGO_ENABLED=0
module=github.com/minio/minio
# Its own checksums hold for what it needs: the public database does not have every one of them.
cp "$(go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')/go.sum" go.sum
chmod u+w go.sum
go build -mod=mod -buildvcs=false -trimpath -ldflags '-s -w' -o out/minio "$module"
