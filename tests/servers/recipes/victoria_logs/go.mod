// VictoriaLogs as it was before it became a module of its own, which not every registry has. Its
// go.mod replaces a module, and a main module has to say so: `go install` alone refuses.
module victoria_logs

go 1.24

require github.com/VictoriaMetrics/VictoriaMetrics v1.109.1

replace cloud.google.com/go/storage => cloud.google.com/go/storage v1.43.0
