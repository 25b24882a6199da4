"""What a server adds to the scheduler: prefixes that requests share, a pace between prompts and streams, a thread."""
