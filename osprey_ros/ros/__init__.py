"""The ROS 2 node. Only this package imports rclpy and message packages."""
