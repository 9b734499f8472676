#!/bin/sh
# Make the secrets that docker-compose.yml and conf/kubernetes/ read, each in a file of its own: passwords, tokens, and the certificates
# with which Dask's scheduler, workers and clients know each other. What is there already stays.
#
#   sh conf/make_secrets.sh [FOLDER]      default: secrets
#
# The folder is closed to other users of this machine. The files in it are not: a container's user must be able to read his.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
cd "$folder"

secret() {
    test -s "$1" || openssl rand -hex 24 | tr -d '\n' > "$1"
}

secret postgres_password
secret segkit_token
secret segkit_metrics_token
secret grafana_password
test -s segkit_database_url ||
    printf 'postgresql://segkit:%s@postgres/segkit' "$(cat postgres_password)" > segkit_database_url

# One certificate serves them all: Dask checks that it was signed by this authority, not whose name it bears.
if ! test -s dask_cert; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=segkit-dask-authority \
        -keyout authority_key -out dask_ca 2> /dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=segkit-dask -keyout dask_key -out request 2> /dev/null
    openssl x509 -req -in request -CA dask_ca -CAkey authority_key -CAcreateserial -days 3650 -out dask_cert 2> /dev/null
    rm -f authority_key request dask_ca.srl # nobody can sign another
fi

chmod 444 ./*
chmod 700 .
echo "The secrets are in $PWD. To log in, the token is in segkit_token; Grafana's user is admin, his password in grafana_password."
