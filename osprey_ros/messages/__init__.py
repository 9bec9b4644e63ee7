"""ROS messages and recorded messages as numpy arrays, without rclpy."""
