"""What `osprey doctor` looks at: the machine, the libraries, ROS 2, bundles, folders and the topics of a robot."""
