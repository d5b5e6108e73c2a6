# The forwarder without anything it does not need: no compiler, no pip, no root.
#
#   docker build -t sandbox-forwarder .
#   docker run -v ./config.yaml:/etc/sandbox-forwarder/config.yaml:ro -e CWSANDBOX_API_KEY \
#     -v forwarder-state:/var/lib/sandbox-forwarder -v forwarder-logs:/var/log/sandboxes \
#     --read-only --tmpfs /tmp --stop-timeout 40 sandbox-forwarder
#
# --stop-timeout is more than shutdown.drain_timeout (25 s).

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY forwarder/ forwarder/
COPY sinks/ sinks/
# What is installed is what was built: the second step reaches no network.
RUN python -m pip wheel --no-cache-dir --wheel-dir /wheels ".[grpc,loki,s3]" \
    && python -m venv --without-pip /opt/sandbox-forwarder \
    && python -m pip --python /opt/sandbox-forwarder/bin/python install --no-cache-dir --no-index \
        --find-links /wheels "sandbox-forwarder[grpc,loki,s3]"

FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="sandbox-forwarder" \
      org.opencontainers.image.description="Follows the logs of sandboxes and forwards every line" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number that no user of the base image has, and that a volume's files keep over every upgrade.
RUN groupadd --gid 10001 forwarder \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/sandbox-forwarder \
        --shell /usr/sbin/nologin forwarder \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/sandbox-forwarder \
    && install -d -o 10001 -g 10001 -m 0750 /var/log/sandboxes
COPY --from=build /opt/sandbox-forwarder /opt/sandbox-forwarder
ENV PATH=/opt/sandbox-forwarder/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/sandbox-forwarder
# Without a volume for the spool, what was taken and not yet delivered goes with the container.
VOLUME ["/var/lib/sandbox-forwarder"]
# Loopback of the container, port of the default admin.listen; --no-healthcheck when it is off.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client as http; c = http.HTTPConnection('127.0.0.1', 9465, timeout=3); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sandbox-forwarder"]
CMD ["run", "--config", "/etc/sandbox-forwarder/config.yaml"]
