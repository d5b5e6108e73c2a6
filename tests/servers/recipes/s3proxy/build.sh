set -euo pipefail
for tool in java mvn; do
    command -v "$tool" || { echo "$tool is not installed"; exit 1; }
done
mvn --batch-mode --quiet -Dstyle.color=never \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory=out/lib -DincludeScope=runtime
