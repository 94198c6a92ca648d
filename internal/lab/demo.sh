#!/usr/bin/env bash
# Shows Berth at work: a cluster of network namespaces, Berth from its install
# manifest, a Service with an address of each family, and a client that uses it.
set -euo pipefail
cd "$(dirname "$0")/../.."
lab="bin/lab --name demo"

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
if [ ! -t 1 ]; then title() { printf '\n%s\n' "$*"; }; fi

$lab down >/dev/null 2>&1 || true

title "Starting a cluster of three nodes, with Berth from deploy/berth.yaml"
$lab up

# A small part of each free range, so that there is room for pools of your own.
pools=$($lab status -o json | jq -c '[.freeRanges[] | sub("/.*"; "") | if contains(":") then . + "/112" else . + "/24" end]')
title "Giving Berth addresses, and a Service to serve"
$lab kubectl apply -f - <<YAML
apiVersion: berth.dev/v1beta1
kind: IPAddressPool
metadata: {name: demo}
spec: {addresses: $pools, avoidBuggyIPs: true}
---
apiVersion: berth.dev/v1beta1
kind: L2Advertisement
metadata: {name: demo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: registry.k8s.io/e2e-test-images/agnhost:2.53
        args: [netexec, --http-port=8080]
        readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
YAML
$lab kubectl wait --timeout=60s --for=condition=berth.dev/AddressAllocated service/web
$lab kubectl rollout status --timeout=60s deployment/web
$lab kubectl wait --timeout=60s --for=condition=berth.dev/Announced service/web

title "The Service has its addresses"
run $lab kubectl get service web

title "One node answers for each of them"
$lab kubectl get service web -o jsonpath='{range .status.conditions[?(@.type=="berth.dev/Announced")]}{.message}{"\n"}{end}'

title "A client on the same Ethernet fetches a page; the Pod's name is the answer"
mapfile -t ips < <($lab kubectl get service web -o jsonpath='{range .status.loadBalancer.ingress[*]}{.ip}{"\n"}{end}')
for ip in "${ips[@]}"; do
	host=$ip
	case $ip in *:*) host="[$ip]" ;; esac
	run $lab exec client -- curl --silent --show-error --max-time 5 "http://$host/hostname"
	echo
done

owner=$($lab kubectl get service web -o jsonpath='{.status.conditions[?(@.type=="berth.dev/Announced")].message}' | sed -E 's/^[^ ]+ by ARP from ([^ ]+) .*/\1/')
cat <<TEXT

Three things to try (as root):

  Watch the address move: probe it while the node that answers, $owner, is cut off.
  The longest gap is the move. Other failures are connections that kube-proxy sends
  to the Pod on that node until Kubernetes takes it for dead.
    $lab probe http://${ips[0]}/hostname --for 15s & sleep 3; $lab cut $owner; sleep 8; $lab heal $owner

  See who answers on the wire.
    $lab exec client -- arping -c 3 ${ips[0]}

  Ask for a pool that does not exist: Berth says so, and the address stays.
    $lab kubectl annotate service web berth.dev/address-pool=nope
    $lab kubectl get events --field-selector involvedObject.name=web
    $lab kubectl annotate service web berth.dev/address-pool-

Remove everything: make demo-down
TEXT
