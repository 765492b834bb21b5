"""What can be looked at: ranked galleries as figures."""
