#!/bin/bash
# Run a command in the container with ROS 2 and osprey_ros sourced.
set -o errexit

# shellcheck source=/dev/null
. "/opt/ros/${ROS_DISTRO:?is not set; set it to the ROS 2 distribution}/setup.bash"
# shellcheck source=/dev/null
. /opt/osprey/install/setup.bash

exec "$@"
