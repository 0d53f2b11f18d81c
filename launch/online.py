"""Online RL: `python launch/online.py experiment=quickstart`; `launch/ppo.py` is the same command."""

from ppo import main

from rlhf.command_line import command_line

if __name__ == "__main__":
    command_line(main, hydra=True)
