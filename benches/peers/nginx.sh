#!/bin/sh
# Becomes an nginx that listens on the port $1 of 127.0.0.1. What it needs is put under target/peers/nginx.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home="$here/../../target/peers/nginx"
mkdir -p "$home/temp"
home=$(cd "$home" && pwd)
if [ ! -e "$home/bytes" ]; then
    # The bytes 0 to 250, over and over: the first 4 MiB of them, and the first 1 to 3000.
    new="$home/bytes.$$"
    mkdir "$new"
    LC_ALL=C awk 'BEGIN { for (i = 0; i < 3012; i++) printf "%c", i % 251 }' > "$new/period"
    i=0
    while [ $i -lt 1393 ]; do cat "$new/period"; i=$((i + 1)); done | head -c 4194304 > "$new/4194304"
    i=1
    while [ $i -le 3000 ]; do head -c $i "$new/4194304" > "$new/$i"; i=$((i + 1)); done
    rm "$new/period"
    mv "$new" "$home/bytes"
fi
sed "s/@port@/$1/" "$here/nginx.conf" > "$home/nginx-$1.conf"
exec nginx -p "$home" -c "$home/nginx-$1.conf" -e stderr
