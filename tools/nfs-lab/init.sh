#!/bin/sh
# First process of a lab host: network, NFS modules, then the agent.
# lab.py passes labdir=, hostno= and port= on the kernel command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sys /sys 2>/dev/null
mount -t tmpfs tmp /run
for word in $(cat /proc/cmdline); do
  case $word in
    labdir=*) LAB=${word#labdir=} ;;
    hostno=*) NO=${word#hostno=} ;;
    port=*) PORT=${word#port=} ;;
  esac
done
while read -r module; do insmod "$module"; done < "$LAB/modules"
hostname "lab$NO"
ip link set lo up
ip addr add "10.77.0.1$NO/24" dev eth0
ip link set eth0 up
python3 "$LAB/agent.py" 10.77.0.1 "$PORT" "$NO"
echo "agent ended"
umount -f -l /run/nfs 2>/dev/null
echo o > /proc/sysrq-trigger
sleep 5
