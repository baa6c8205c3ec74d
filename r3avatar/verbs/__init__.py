"""What each verb of the command line does with its configuration."""
