"""A job under msrun as a whole: starting it, watching its processes, ending it so that nothing is left. Standard
library only.
"""

# another node of the first one's host: msrun starts a scheduler there too, which has nothing to do
SECOND_NODE_VARIABLE = "MINDRLHF_SECOND_NODE"
