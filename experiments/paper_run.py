"""As much of the paper's grid world as fits into some minutes on an accelerator."""

from internal_rl.stages import paper_run

if __name__ == "__main__":
    paper_run.launch_paper_run()
