"""What hotseat says about itself: metrics and logs."""
