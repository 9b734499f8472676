# The images of docker-compose.yml, in stages:
#
#   segkit   the service, workers, schedules, Voila, and Dask's scheduler and workers: one image, another command for each
#   front    nginx, Debian's, because its brotli modules are packages there
#
#   docker build --target segkit --tag segkit .
#
# Checked by tests/test_compose.py and tests/test_nginx.py as far as that is possible without an engine; it has not been built.
# Images are named by version. A digest would hold them tighter: `docker buildx imagetools inspect IMAGE` tells it where there is a network.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/segkit
RUN python -m venv /opt/segkit && pip install "uv>=0.9"
# What is installed changes seldom, and segkit often.
COPY requirements.lock /build/
RUN uv pip sync --require-hashes --compile-bytecode /build/requirements.lock
COPY pyproject.toml README.md LICENSE /build/
COPY segkit /build/segkit
COPY notebooks /build/notebooks
COPY dashboards /build/dashboards
COPY conf /build/conf
RUN uv pip install --no-deps --compile-bytecode /build
# Compiled for the processor that builds. On another kind, each container compiles them once more at its start.
ENV NUMBA_CACHE_DIR=/opt/segkit/kernels
RUN /opt/segkit/bin/python -c "from segkit import kernels; kernels.warm()"


FROM python:3.11.13-slim-bookworm AS segkit
RUN groupadd --gid 10001 segkit \
    && useradd --uid 10001 --gid segkit --no-create-home --home-dir /tmp --shell /usr/sbin/nologin segkit \
    && install --directory --owner segkit --group segkit --mode 2750 /var/lib/segkit
COPY --from=build /opt/segkit /opt/segkit
COPY conf /etc/segkit
# The root file system is read-only: what is written goes to the home folder, or to /tmp and with the container.
ENV PATH=/opt/segkit/bin:$PATH HOME=/tmp NUMBA_CACHE_DIR=/tmp/kernels PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SEGKIT_HOME=/var/lib/segkit DASK_CONFIG=/etc/segkit/dask.yaml
USER 10001:10001
WORKDIR /var/lib/segkit
VOLUME /var/lib/segkit
EXPOSE 8765
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "/etc/segkit/container_start.sh"]
CMD ["segkit", "serve", "--host", "0.0.0.0", "--no-work"]


FROM debian:12.11-slim AS front
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx libnginx-mod-http-brotli-filter libnginx-mod-http-brotli-static \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 segkit && usermod --append --groups segkit www-data
COPY conf/nginx.conf /etc/nginx/nginx.conf
# The same file as without containers, at the addresses that docker-compose.yml gives; its logs go where the engine looks for them.
RUN sed -i \
    -e '/^user /d' \
    -e 's#listen 80 #listen 8080 #' \
    -e 's#listen 443 #listen 8443 #' \
    -e 's#pid /run/nginx.pid;#pid /tmp/nginx.pid;#' \
    -e 's#/var/log/nginx/segkit.log#/dev/stdout#' \
    -e 's#server 127.0.0.1:8765#server 172.30.86.3:8765#' \
    -e 's#server 127.0.0.1:8866#server 172.30.86.4:8866#' \
    -e 's#server 127.0.0.1:3000#server 172.30.86.5:3000#' \
    -e 's#^http {#http {\n    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;#' \
    /etc/nginx/nginx.conf
USER www-data
EXPOSE 8080 8443
STOPSIGNAL SIGQUIT
CMD ["nginx", "-e", "stderr", "-g", "daemon off;"]
