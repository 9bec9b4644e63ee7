#!/bin/bash
# Runs a command in the container with ROS 2 and osprey_ros sourced.
set -o errexit

# shellcheck source=/dev/null
. "/opt/ros/${ROS_DISTRO:?is not set: which ROS 2 is to be sourced}/setup.bash"
# shellcheck source=/dev/null
. /opt/osprey/install/setup.bash

exec "$@"
