"""The ROS 2 side of osprey_ros: the only place that imports rclpy and message packages."""
