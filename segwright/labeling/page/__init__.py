"""The label page: a server for one label folder, its page, and the questions it shows."""
